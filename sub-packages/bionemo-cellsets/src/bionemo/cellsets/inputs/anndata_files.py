"""Read AnnData on disk, h5ad or zarr, in blocks of rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from bionemo.cellsets.inputs.cell_input import CellInput
from bionemo.cellsets.inputs.matrices import CscArrays, CsrArrays, DenseArray
from bionemo.screens.errors import InputError, brief, choices, name_list
from bionemo.screens.files import open_anndata_file, read_anndata
from bionemo.screens.obs import text_of

# h5py's and zarr's groups answer alike, and neither's types tell a group from an array.
Node = Any
Convert = Callable[[Any], np.ndarray]


class AnnDataInput(CellInput):
    """An `AnnDataInput` is one .h5ad file or .zarr directory (format 2 or 3); its expression may be CSR, CSC or dense.

    `layer` is what to read instead of X: the name of a layer, ``raw/X``, or ``obsm/NAME``. The genes of an obsm matrix
    are all of var, or those that var marks as ``highly_variable``, whichever has as many. An InputError says that it is
    no AnnData file, or has no such layer, genes or cells.
    """

    def __init__(self, path: Path, *, layer: str | None):
        self.path = path
        self._file: Any = open_anndata_file(path)
        try:
            self._columns: dict[str, Callable[[int, int], np.ndarray]] = {}
            # Before anndata 0.7 a table was a compound array, and its categories lay in uns.
            is_old = not all(_is_group(self._group(name)) for name in ("obs", "var"))
            self._old = read_anndata(path, obs_only=True) if is_old else None
            self._obs = self._group("obs")
            self._table = None if _is_group(self._obs) and "_index" in self._obs.attrs else self._read("obs")
            self._names = self._reader(None, convert=np.asarray)
            self._matrix, self.where, self.genes = self._expression(layer)
            self.n_cells = _length(self._obs) if self._table is None else len(self._table)
            self._check_shape()
            self._rows = row_reader(self._matrix)
        except BaseException as error:
            self.close()
            if isinstance(error, Exception) and not isinstance(error, InputError):
                raise self._unreadable("The content", error) from error
            raise

    def _stored_names(self, start: int, stop: int) -> np.ndarray:
        return self._names(start, stop)

    @property
    def columns(self) -> list[str]:
        """Return the names of the obs columns."""
        if self._table is not None:
            return list(map(str, self._table.columns))
        try:
            return [str(name) for name in self._obs.attrs.get("column-order", self._obs.keys()) if name in self._obs]
        except Exception as error:
            raise self._unreadable("The list of obs columns", error) from error

    def labels(self, column: str, start: int, stop: int) -> np.ndarray:
        """Return one of `columns` in rows [start, stop), object array of str; empty where it has no value."""
        if column not in self._columns:
            self._columns[column] = self._reader(column)
        return self._columns[column](start, stop)

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._file, h5py.File):
            self._file.close()

    def _reader(self, key: str | None, convert: Convert | None = None) -> Callable[[int, int], np.ndarray]:
        """Return what reads a column, or the index for None, in pieces; plain values go through `convert`."""
        convert = convert or text_of
        what = "The index of obs" if key is None else f"obs column '{key}'"
        try:
            if self._table is not None:
                series = self._table.index if key is None else self._table[key]
                values = text_of(series)
                return lambda start, stop: values[start:stop]
            node = self._obs[self._obs.attrs["_index"] if key is None else key]
            read = _column_reader(self._obs, node, convert)
        except Exception as error:  # whatever the reader stumbles over, the file is the cause
            raise self._unreadable(what, error) from error

        def read_or_refuse(start: int, stop: int) -> np.ndarray:
            try:
                return read(start, stop)
            except Exception as error:
                raise self._unreadable(what, error) from error

        return read_or_refuse

    def _group(self, name: str) -> Node:
        if name not in self._file:
            raise InputError(f"{self.path} has no '{name}' table: name an AnnData file")
        return self._file[name]

    def _read(self, name: str) -> pd.DataFrame:
        if self._old is not None and name in ("obs", "var"):
            return getattr(self._old, name)
        try:
            table: Any = read_elem(self._group(name))
        except InputError:
            raise
        except Exception as error:
            raise self._unreadable(f"The '{name}' table", error) from error
        return table

    def _unreadable(self, what: str, error: Exception) -> InputError:
        return InputError(f"{what} of {self.path} cannot be read ({brief(error)}): write the file again")

    def _expression(self, layer: str | None) -> tuple[Node, str, np.ndarray]:
        file = self._file
        at_hand = [
            *(file["layers"].keys() if "layers" in file else []),
            # AnnData may write an absent raw as an empty array.
            *(["raw/X"] if "raw" in file and hasattr(file["raw"], "keys") and "X" in file["raw"] else []),
            *(f"obsm/{name}" for name in (file["obsm"].keys() if "obsm" in file else [])),
        ]
        if layer is not None and layer not in at_hand:
            raise InputError(f"{self.path} has no layer '{layer}': {choices(layer, at_hand)}")
        if layer is None and "X" not in file:
            raise InputError(f"{self.path} has no X: choose a layer with --layer ({name_list(at_hand)})")
        name = "X" if layer is None else layer if "/" in layer else f"layers/{layer}"
        matrix: Node = file[name]
        if _is_group(matrix) and _sparse_format(matrix) is None:
            raise InputError(f"'{name}' of {self.path} is no matrix: choose another layer with --layer")
        var = self._read("raw/var" if name == "raw/X" else "var")
        if layer is not None and layer.startswith("obsm/") and "highly_variable" in var:
            marked = var["highly_variable"].to_numpy(dtype=bool)
            if _shape(matrix)[-1] == marked.sum():
                var = var[marked]
        genes = var.index.astype(str).to_numpy(dtype=str)
        return matrix, (layer and (layer if "/" in layer else f"layer '{layer}'")) or "X", genes

    def _check_shape(self) -> None:
        shape = _shape(self._matrix)
        if shape != (self.n_cells, len(self.genes)):
            raise InputError(
                f"{self.where} of {self.path} has shape {shape}, not {self.n_cells} cells x {len(self.genes)} genes: "
                "mend it"
            )
        if 0 in shape:
            raise InputError(f"{self.path} has {shape[0]} cells and {shape[1]} genes: name a file that holds cells")


def _is_group(node: Node) -> bool:
    return hasattr(node, "keys")


def _length(obs: Node) -> int:
    column = obs[obs.attrs["_index"]]
    if _is_group(column):
        column = column["codes"] if "codes" in column else column["values"]
    return int(column.shape[0])


def _column_reader(obs: Node, node: Node, convert: Convert) -> Callable[[int, int], np.ndarray]:
    if _is_group(node) and "codes" in node:
        return _categorical_reader(node["codes"], read_elem(node["categories"]))
    if _is_group(node) and "values" in node and "mask" in node:
        values, mask = node["values"], node["mask"]
        return lambda start, stop: np.where(mask[start:stop], "", text_of(values[start:stop]))
    if _is_group(node):
        raise TypeError(f"encoding {node.attrs.get('encoding-type')} is not known")
    if "categories" in node.attrs:  # as AnnData wrote categoricals before 0.8
        categories = obs["__categories"][Path(node.name).name]
        return _categorical_reader(node, categories[:])
    return lambda start, stop: convert(node[start:stop])


def _categorical_reader(codes: Node, categories: Any) -> Callable[[int, int], np.ndarray]:
    # The code of a missing value is -1, which takes the last entry.
    names = np.append(text_of(categories), "").astype(object)
    return lambda start, stop: names[codes[start:stop]]


def row_reader(node: Node) -> CsrArrays | CscArrays | DenseArray:
    """Return what reads rows of a matrix of an open AnnData file, unchecked; a ValueError where it has no two axes."""
    layout, (rows, columns) = _sparse_format(node), _shape(node)
    if layout is None:
        return DenseArray(node, (rows, columns))
    reader = CsrArrays if layout == "csr" else CscArrays
    return reader(node["data"], node["indices"], node["indptr"], (rows, columns))


def _sparse_format(node: Node) -> str | None:
    if not _is_group(node):
        return None
    encoding = node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", ""))
    return {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}.get(encoding)


def _shape(node: Node) -> tuple[int, ...]:
    if not _is_group(node):
        return tuple(node.shape)
    return tuple(int(size) for size in node.attrs.get("shape", node.attrs.get("h5sparse_shape", ())))
