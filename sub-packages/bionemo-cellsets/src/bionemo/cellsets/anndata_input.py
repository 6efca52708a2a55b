"""AnnData on disk, h5ad or zarr, read in blocks of rows."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem

from bionemo.cellsets import cell_input
from bionemo.cellsets.cell_input import CellInput
from bionemo.cellsets.errors import InputError, choices, name_list

_COLUMN_GROUP_ROWS = 256
"""Rows whose values are counted together to cut a matrix stored by column into blocks of rows."""

# h5py's and zarr's groups answer alike, and neither's types tell a group from an array.
Node = Any


class AnnDataInput(CellInput):
    """One .h5ad file or .zarr directory (format 2 or 3).

    Parameters
    ----------
    path : Path
        The file; its expression may be CSR, CSC or dense.
    layer : str, optional
        What to read instead of X: the name of a layer, ``raw/X``, or ``obsm/NAME``. The genes of an obsm matrix are
        all of var, or those that var marks as ``highly_variable``, whichever has as many.

    Raises
    ------
    InputError
        If it is no AnnData file, or has no such layer, genes or cells.
    """

    def __init__(self, path: Path, *, layer: str | None):
        self.path = path
        self._file = _open(path)
        try:
            self._columns: dict[str, Callable[[int, int], np.ndarray]] = {}
            self._obs = self._group("obs")
            self._table = None if _is_group(self._obs) and "_index" in self._obs.attrs else self._read("obs")
            self._names = self._reader(None)
            self._matrix, self.where, self.genes = self._expression(layer)
            self.n_cells = _length(self._obs) if self._table is None else len(self._table)
            self._check_shape()
        except BaseException:
            self.close()
            raise

    def names(self, start: int, stop: int) -> np.ndarray:
        """Return the cells' names in rows [start, stop), object array of str."""
        return self._names(start, stop)

    def labels(self, key: str, start: int, stop: int) -> np.ndarray:
        """Return an obs column in rows [start, stop), object array of str; empty where it has no value."""
        if key not in self._columns:
            self._columns[key] = self._joined(key) if self._is_joined(key) else self._reader(key)
        return self._columns[key](start, stop)

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._file, h5py.File):
            self._file.close()

    def _column_names(self) -> list[str]:
        if self._table is not None:
            return list(self._table.columns)
        return [name for name in self._obs.attrs.get("column-order", self._obs.keys()) if name in self._obs]

    def _is_joined(self, key: str) -> bool:
        return "+" in key and key not in self._column_names()

    def _joined(self, key: str) -> Callable[[int, int], np.ndarray]:
        parts = [self._reader(part) for part in key.split("+")]

        def read(start: int, stop: int) -> np.ndarray:
            rows = zip(*(part(start, stop) for part in parts), strict=True)
            return np.array(["+".join(row) if all(map(str.strip, row)) else "" for row in rows], dtype=object)

        return read

    def _reader(self, key: str | None) -> Callable[[int, int], np.ndarray]:
        """Return what reads a column, or the index for None, in pieces."""
        if key is not None and key not in self._column_names():
            raise InputError(f"{self.path} has no obs column '{key}': {choices(key, self._column_names())}")
        what = "The index of obs" if key is None else f"obs column '{key}'"
        try:
            if self._table is not None:
                series = self._table.index if key is None else self._table[key]
                values = text_of(np.asarray(series.astype(object)))
                return lambda start, stop: values[start:stop]
            node = self._obs[self._obs.attrs["_index"] if key is None else key]
            read = _column_reader(self._obs, node)
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
        try:
            table: Any = read_elem(self._group(name))
        except InputError:
            raise
        except Exception as error:
            raise self._unreadable(f"The '{name}' table", error) from error
        return table

    def _unreadable(self, what: str, error: Exception) -> InputError:
        return InputError(f"{what} of {self.path} cannot be read ({error}): write the file again")

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

    def _stored_blocks(self) -> Iterator[tuple[int, sp.csr_matrix]]:
        read = {None: _dense_blocks, "csr": csr_blocks, "csc": _csc_blocks}[_sparse_format(self._matrix)]
        blocks = read(self._matrix, self.n_cells, len(self.genes))
        while True:
            try:
                block = next(blocks)
            except StopIteration:
                return
            except Exception as error:  # a damaged file, a lost mount
                raise self.damaged(error) from error
            yield block


def _open(path: Path) -> Node:
    if path.is_dir():
        import zarr

        try:
            return zarr.open_group(str(path), mode="r")
        except Exception as error:  # zarr's errors have no common class
            raise InputError(f"{path} cannot be read as zarr ({error}): name an AnnData file or directory") from error
    if not path.is_file():
        raise InputError(f"There is no file {path}: name an existing .h5ad file or .zarr directory")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} cannot be read as .h5ad ({error}): name an AnnData file") from error


def _is_group(node: Node) -> bool:
    return hasattr(node, "keys")


def _length(obs: Node) -> int:
    column = obs[obs.attrs["_index"]]
    if _is_group(column):
        column = column["codes"] if "codes" in column else column["values"]
    return int(column.shape[0])


def _column_reader(obs: Node, node: Node) -> Callable[[int, int], np.ndarray]:
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
    return lambda start, stop: text_of(node[start:stop])


def _categorical_reader(codes: Node, categories: Any) -> Callable[[int, int], np.ndarray]:
    # The code of a missing value is -1, which takes the last entry.
    names = np.append(text_of(np.asarray(categories, dtype=object)), "").astype(object)
    return lambda start, stop: names[codes[start:stop]]


def text_of(values: np.ndarray) -> np.ndarray:
    """Return values as str, an object array; empty where one is missing."""
    values = np.asarray(values)
    missing = pd.isna(values)
    text = [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
    result = np.array(text, dtype=object)
    result[missing] = ""
    return result


def _sparse_format(node: Node) -> str | None:
    if not _is_group(node):
        return None
    encoding = node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", ""))
    return {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}.get(encoding)


def _shape(node: Node) -> tuple[int, ...]:
    if not _is_group(node):
        return tuple(node.shape)
    return tuple(int(size) for size in node.attrs.get("shape", node.attrs.get("h5sparse_shape", ())))


def _dense_blocks(node: Node, n_rows: int, n_columns: int) -> Iterator[tuple[int, sp.csr_matrix]]:
    rows = max(1, cell_input.BLOCK_VALUES // n_columns)
    for start in range(0, n_rows, rows):
        yield start, sp.csr_matrix(node[start : min(start + rows, n_rows)])


def _pointers(node: Node, start: int, stop: int) -> np.ndarray:
    pointers = np.asarray(node["indptr"][start : stop + 1]).astype(np.int64)
    if len(pointers) != stop - start + 1 or np.any(np.diff(pointers) < 0) or pointers[0] < 0:
        raise ValueError("its row or column pointers are not ascending")
    if pointers[-1] > min(node["data"].shape[0], node["indices"].shape[0]):
        raise ValueError("its pointers go beyond its values")
    return pointers


def csr_blocks(node: Node, n_rows: int, n_columns: int) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Yield (first row, rows) of the sliceable arrays ``data``, ``indices``, ``indptr`` of a CSR matrix, checked."""
    start = 0
    while start < n_rows:
        pointers = _pointers(node, start, min(start + cell_input.BLOCK_ROWS, n_rows))
        fitting = int(np.searchsorted(pointers, pointers[0] + cell_input.BLOCK_VALUES, side="right")) - 1
        pointers = pointers[: max(fitting, 1) + 1]
        values, indices = (np.asarray(node[name][pointers[0] : pointers[-1]]) for name in ("data", "indices"))
        shape = (len(pointers) - 1, n_columns)
        yield start, sp.csr_matrix((values, _within(indices, n_columns), pointers - pointers[0]), shape=shape)
        start += shape[0]


def _csc_blocks(node: Node, n_rows: int, n_columns: int) -> Iterator[tuple[int, sp.csr_matrix]]:
    # Every block of rows is a scan of the whole matrix, and one scan before them counts where the blocks end.
    per_group = np.zeros(-(-n_rows // _COLUMN_GROUP_ROWS), dtype=np.int64)
    for _, _, indices in _column_chunks(node, n_columns):
        per_group += np.bincount(_within(indices, n_rows) // _COLUMN_GROUP_ROWS, minlength=len(per_group))
    before = np.concatenate([[0], np.cumsum(per_group)])
    first = 0
    while first < len(per_group):
        last = int(np.searchsorted(before, before[first] + cell_input.BLOCK_VALUES, side="right")) - 1
        last = max(first + 1, min(last, len(per_group)))
        start, stop = first * _COLUMN_GROUP_ROWS, min(last * _COLUMN_GROUP_ROWS, n_rows)
        parts = []
        for columns, values, indices in _column_chunks(node, n_columns, values=True):
            inside = (indices >= start) & (indices < stop)
            parts.append((values[inside], indices[inside] - start, columns[inside]))
        values, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
        yield start, sp.csr_matrix((values, (rows, columns)), shape=(stop - start, n_columns))
        first = last


def _column_chunks(
    node: Node, n_columns: int, *, values: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    pointers = _pointers(node, 0, n_columns)
    for begin in range(0, int(pointers[-1]), cell_input.BLOCK_VALUES):
        end = min(begin + cell_input.BLOCK_VALUES, int(pointers[-1]))
        columns = np.searchsorted(pointers, np.arange(begin, end), side="right") - 1 if values else np.empty(0)
        stored = np.asarray(node["data"][begin:end]) if values else np.empty(0)
        yield columns, stored, np.asarray(node["indices"][begin:end]).astype(np.int64)


def _within(indices: np.ndarray, length: int) -> np.ndarray:
    if len(indices) and (indices.min() < 0 or indices.max() >= length):
        raise ValueError(f"an index is outside [0, {length})")
    return indices
