"""Read an existing bionemo-scdl archive, with a table of its cells, in blocks of rows."""

from pathlib import Path

import numpy as np
import pandas as pd

from bionemo.cellsets.inputs.cell_input import CellInput
from bionemo.cellsets.inputs.matrices import CsrArrays
from bionemo.screens.errors import InputError, brief, choices, name_list
from bionemo.screens.obs import text_of

HEADER = "header.sch"

ObsTable = pd.DataFrame | str | Path
"""The labels of the cells of an archive: a table, or a .csv or .parquet file of it."""


class ScdlInput(CellInput):
    """A `ScdlInput` is the directory of one archive, as bionemo-scdl 0.1 writes it, the genes of all rows alike.

    `obs` has a line per row of the archive, in its order; the index (the first column of a .csv) names the cells. It is
    held in memory. Without it the archive's own row features are taken, and cells are named by their number.
    `gene_column` is the gene feature that holds the names; it may be left out where there is only one. An InputError
    says that it is no archive, or that the table does not fit.
    """

    where = "the archive"

    def __init__(self, path: Path, *, obs: ObsTable | None, gene_column: str | None):
        self.path = path
        self._arrays = _open_arrays(path)
        self.n_cells = self._arrays["indptr"].shape[0] - 1
        self.genes = self._genes(gene_column)
        self._obs = self._obs_table(obs)
        if len(self._obs) != self.n_cells:
            raise InputError(
                f"The obs table for {path} has {len(self._obs)} lines where the archive has {self.n_cells} rows: "
                "give one line per row, in the archive's order"
            )
        if self.n_cells < 1:
            raise InputError(f"{path} has 0 cells: name an archive that holds cells")
        self._rows = CsrArrays(**self._arrays, shape=(self.n_cells, len(self.genes)))

    def _stored_names(self, start: int, stop: int) -> np.ndarray:
        return self._obs.index[start:stop].to_numpy(dtype=object)

    @property
    def columns(self) -> list[str]:
        """Return the names of the obs columns."""
        return list(map(str, self._obs.columns))

    def labels(self, column: str, start: int, stop: int) -> np.ndarray:
        """Return one of `columns` in rows [start, stop), object array of str; empty where it has no value."""
        return text_of(self._obs.iloc[start:stop, self.columns.index(column)])

    def close(self) -> None:
        """Do nothing: the files are open only while they are read."""

    def _genes(self, column: str | None) -> np.ndarray:
        tables = _feature_tables(self.path, "var_features")
        if len(tables) != 1:
            raise InputError(
                f"{self.path} has {len(tables)} tables of genes: give an archive whose rows all have the same genes"
            )
        columns = list(map(str, tables[0].columns))
        if column is None and len(columns) != 1:
            raise InputError(f"The genes of {self.path} have several features ({name_list(columns)}): name one")
        column = columns[0] if column is None else column
        if column not in columns:
            raise InputError(f"The genes of {self.path} have no feature '{column}': {choices(column, columns)}")
        return text_of(tables[0][column]).astype(str)

    def _obs_table(self, obs: ObsTable | None) -> pd.DataFrame:
        if isinstance(obs, pd.DataFrame):
            return obs
        if obs is None:
            return pd.concat(_feature_tables(self.path, "obs_features"), ignore_index=True)
        try:
            if Path(obs).suffix == ".parquet":
                return pd.read_parquet(obs)
            table = pd.read_csv(obs, dtype=str)  # as an index, pandas would turn names such as 0001 into numbers
            return table.set_index(table.columns[0])
        except Exception as error:  # whatever the reader stumbles over, the file is the cause
            raise InputError(
                f"The obs table {obs} cannot be read ({brief(error)}): name a .csv or .parquet file"
            ) from error


class _FileArray:
    """A `_FileArray` lies in a file as it does in memory; a slice of it is read when it is asked for."""

    def __init__(self, path: Path, dtype: np.dtype, length: int):
        self.dtype, self.shape, self._path = np.dtype(dtype), (length,), path
        if path.stat().st_size < self.dtype.itemsize * length:
            raise ValueError(f"{path.name} is shorter than its {length} entries")

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        count = max(stop - start, 0)
        result = np.fromfile(self._path, self.dtype, count, offset=start * self.dtype.itemsize)
        if len(result) < count:
            raise OSError("the file ends early")
        return result


def _open_arrays(path: Path) -> dict[str, _FileArray]:
    from bionemo.scdl.schema.header import SCDLHeader
    from bionemo.scdl.util.scdl_constants import FileNames

    try:
        infos = {info.name: info for info in SCDLHeader.load(str(path / HEADER)).arrays}
        files = {"data": FileNames.DATA, "indices": FileNames.COLPTR, "indptr": FileNames.ROWPTR}
        types = {name: np.dtype(infos[file.name].dtype.numpy_dtype_string) for name, file in files.items()}
        return {
            name: _FileArray(path / file.value, types[name].newbyteorder("<"), infos[file.name].length)
            for name, file in files.items()
        }
    except Exception as error:  # bionemo-scdl's errors have no common class
        raise InputError(
            f"{path} cannot be read as a bionemo-scdl archive ({brief(error)}): "
            f"name its directory, which holds {HEADER}"
        ) from error


def _feature_tables(path: Path, folder: str) -> list[pd.DataFrame]:
    files = sorted((path / folder).glob("*.parquet"))
    if not files:
        raise InputError(f"{path} has no tables in '{folder}': save the archive with its features")
    try:
        return [pd.read_parquet(file) for file in files]
    except Exception as error:  # whatever the reader stumbles over, the file is the cause
        raise InputError(
            f"The tables in '{folder}' of {path} cannot be read ({brief(error)}): save it again"
        ) from error
