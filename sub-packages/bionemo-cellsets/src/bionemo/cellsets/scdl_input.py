"""An existing bionemo-scdl archive, with a table of its cells, to a store."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.cellsets.anndata_input import csr_blocks, text_of
from bionemo.cellsets.building import BuildConfig, build_store
from bionemo.cellsets.cell_input import CellInput, provenance
from bionemo.cellsets.errors import InputError, choices, name_list
from bionemo.cellsets.preparation import complete_keys
from bionemo.cellsets.split import Split
from bionemo.cellsets.store import COLUMNS, DATA, ROW_POINTERS, CellStore


def from_scdl(
    archive: str | Path,
    store: str | Path,
    *,
    obs: pd.DataFrame | str | Path | None = None,
    gene_column: str | None = None,
    protocol: str | None = None,
    perturbation_key: str | None = None,
    control: str | None = None,
    context_key: str | None = None,
    batch_key: str | None = None,
    n_genes: int | None = 2000,
    hvg_from: str = "train",
    target_sum: float = 10_000.0,
    split: str | Path | None = None,
    already_log1p: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> CellStore:
    """Write a cell store of the cells of a bionemo-scdl archive.

    The archive is only read, and in blocks; the table of its cells is held in memory.

    Parameters
    ----------
    archive : path
        The directory; its header and row features as bionemo-scdl 0.1 writes them, with the genes of all rows alike.
    store : path
        The directory to make.
    obs : DataFrame, or path of a .csv or .parquet file, optional
        A line per row of the archive, in its order; the index (the first column of a .csv) names the cells. Without
        it the archive's own row features are taken, and cells are named by their number.
    gene_column : str, optional
        Gene feature that holds the names; may be left out where there is only one.
    protocol, perturbation_key, control, context_key, batch_key, n_genes, hvg_from, target_sum, split, already_log1p
        As for `prepare`.
    overwrite, progress : bool
        As for `prepare`.

    Returns
    -------
    CellStore
        The store, opened.

    Raises
    ------
    InputError
        If anything about the input is wrong, or the disk is full; nothing is left at `store` then.
    """
    keys, control = complete_keys(
        protocol, {"perturbation": perturbation_key, "context": context_key, "batch": batch_key}, control
    )
    config = BuildConfig(
        keys=keys,
        control=control,
        genes="same",
        n_genes=n_genes,
        hvg_from=hvg_from,
        target_sum=float(target_sum),
        split=None if split is None else Split.from_toml(split),
        already_log1p=already_log1p,
    )
    path = Path(archive)
    with contextlib.closing(ScdlInput(path, obs=obs, gene_column=gene_column)) as cells:
        entries = {"layer": None, "protocol": protocol, "inputs": [provenance(path)]}
        return build_store([cells], Path(store), config, provenance=entries, overwrite=overwrite, progress=progress)


class ScdlInput(CellInput):
    """One archive; the parameters are those of `from_scdl`."""

    where = "the archive"

    def __init__(self, path: Path, *, obs: pd.DataFrame | str | Path | None, gene_column: str | None):
        self.path = path
        self._arrays = _map_arrays(path)
        self.n_cells = len(self._arrays["indptr"]) - 1
        self.genes = self._genes(gene_column)
        self._obs = self._obs_table(obs)
        self._names = text_of(self._obs.index.to_numpy(dtype=object))
        if len(self._obs) != self.n_cells:
            raise InputError(
                f"The obs table for {path} has {len(self._obs)} lines where the archive has {self.n_cells} rows: "
                "give one line per row, in the archive's order"
            )
        if self.n_cells == 0:
            raise InputError(f"{path} has 0 cells: name an archive that holds cells")

    def names(self, start: int, stop: int) -> np.ndarray:
        """Return the cells' names in rows [start, stop), object array of str."""
        return self._names[start:stop]

    def labels(self, key: str, start: int, stop: int) -> np.ndarray:
        """Return an obs column in rows [start, stop), object array of str; empty where it has no value."""
        columns = list(map(str, self._obs.columns))
        parts = [key] if key in columns else key.split("+")
        for part in parts:
            if part not in columns:
                raise InputError(f"The obs table for {self.path} has no column '{part}': {choices(part, columns)}")
        rows = self._obs.iloc[start:stop]
        read = [text_of(rows[part].to_numpy(dtype=object)) for part in parts]
        if len(read) == 1:
            return read[0]
        joined = ["+".join(row) if all(map(str.strip, row)) else "" for row in zip(*read, strict=True)]
        return np.array(joined, dtype=object)

    def close(self) -> None:
        """Let go of the memory maps."""
        self._arrays = {}

    def _stored_blocks(self) -> Iterator[tuple[int, sp.csr_matrix]]:
        try:
            yield from csr_blocks(self._arrays, self.n_cells, len(self.genes))
        except ValueError as error:
            raise self.damaged(error) from error

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
        return text_of(tables[0][column].to_numpy(dtype=object)).astype(str)

    def _obs_table(self, obs: pd.DataFrame | str | Path | None) -> pd.DataFrame:
        if isinstance(obs, pd.DataFrame):
            return obs
        if obs is None:
            return pd.concat(_feature_tables(self.path, "obs_features"), ignore_index=True)
        try:
            return pd.read_parquet(obs) if Path(obs).suffix == ".parquet" else pd.read_csv(obs, index_col=0, dtype=str)
        except Exception as error:  # whatever the reader stumbles over, the file is the cause
            raise InputError(f"The obs table {obs} cannot be read ({error}): name a .csv or .parquet file") from error


def _map_arrays(path: Path) -> dict[str, np.ndarray]:
    from bionemo.scdl.schema.header import SCDLHeader

    try:
        header = SCDLHeader.load(str(path / "header.sch"))
        infos = {info.name: info for info in header.arrays}
        files = {"data": ("DATA", DATA), "indices": ("COLPTR", COLUMNS), "indptr": ("ROWPTR", ROW_POINTERS)}
        return {
            name: np.memmap(
                path / file,
                dtype=np.dtype(infos[array].dtype.numpy_dtype_string).newbyteorder("<"),
                mode="r",
                shape=(infos[array].length,),
            )
            for name, (array, file) in files.items()
        }
    except Exception as error:  # bionemo-scdl's errors have no common class
        raise InputError(
            f"{path} cannot be read as a bionemo-scdl archive ({error!r}): name its directory, which holds header.sch"
        ) from error


def _feature_tables(path: Path, folder: str) -> list[pd.DataFrame]:
    files = sorted((path / folder).glob("*.parquet"))
    if not files:
        raise InputError(f"{path} has no tables in '{folder}': save the archive with its features")
    return [pd.read_parquet(file) for file in files]
