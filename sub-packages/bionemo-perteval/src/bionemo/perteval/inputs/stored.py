"""Read cells on disk as they are asked for: a column of their labels, or their values block by block."""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem, sparse_dataset

from bionemo.screens.errors import InputError
from bionemo.screens.files import read_anndata, reading
from bionemo.screens.obs import text_of
from bionemo.screens.shards import checked_shards, holds_shards

BLOCK_VALUES = 2**22
"""Values of a block, zeros of dense matrices included; a block has a row at least."""

_SAID = ("prediction", "training_conditions")
_TABLE_VERSION = "0.2.0"


class StoredTable:
    """A `StoredTable` is the `obs` of one or more files, one after another, of which a column is read at a time."""

    def __init__(self, parts: Sequence[Path]):
        self._parts = parts
        with reading(parts[0]) as file:
            self.columns = [str(name) for name in file["obs"].attrs["column-order"]]

    def __getitem__(self, column: str) -> Any:
        """Return a column, an array of pandas or NumPy [N]."""
        read = [_column(part, "obs", column) for part in self._parts]
        if len(read) == 1:
            return read[0]
        if all(isinstance(values, pd.Categorical) for values in read):
            return pd.api.types.union_categoricals(read)
        return np.concatenate([text_of(values) for values in read])

    @property
    def index(self) -> np.ndarray:
        """Names of the cells, object array of str [N]; read each time."""
        return np.concatenate([text_of(_column(part, "obs")) for part in self._parts])


class StoredCells:
    """`StoredCells` are the cells of one or more AnnData files on disk, one after another; what is asked for is read.

    The files have one table of genes. The columns of their labels are read one at a time from `obs`.
    """

    def __init__(self, parts: Sequence[Path]):
        self._parts = parts
        self.obs = StoredTable(parts)
        self._sizes = [_length(part) for part in parts]
        self.n_obs = sum(self._sizes)
        other = next((part for part in parts[1:] if not _genes(part).equals(self.var_names)), None)
        if other is not None:
            raise InputError(f"{other} has other genes than {parts[0]}: predict again into another folder")

    @cached_property
    def var_names(self) -> pd.Index:
        """Names of the genes [G]."""
        return _genes(self._parts[0])

    @cached_property
    def uns(self) -> dict[str, Any]:
        """What the first file says of itself as a prediction."""
        with reading(self._parts[0]) as file:
            return {name: read_elem(file["uns"][name]) for name in _SAID if "uns" in file and name in file["uns"]}

    @cached_property
    def layers(self) -> list[str]:
        """Names of the layers."""
        with reading(self._parts[0]) as file:
            return list(file["layers"].keys()) if "layers" in file else []

    def blocks(self, layer: str | None) -> Iterator[sp.csr_matrix]:
        """Yield the values of all cells, as they are stored; nothing where there is no X."""
        name = "X" if layer is None else f"layers/{layer}"
        for part, cells in zip(self._parts, self._sizes, strict=True):
            with reading(part) as file:
                if name in file:
                    yield from _blocks(file[name], (cells, self.var_names.size))


Cells = ad.AnnData | StoredCells
"""Cells in memory or on disk."""


def open_cells(path: Path) -> Cells:
    """Open an h5ad file, a zarr directory or a folder of prediction shards.

    Files that anndata wrote before release 0.8 are read into memory.

    Raises
    ------
    InputError
        There is no such thing, it is damaged or leads elsewhere, or a shard is lost.
    """
    parts = checked_shards(path) if path.is_dir() and holds_shards(path) else [path]
    for part in parts:
        with reading(part) as file:
            tables = [file[name] for name in ("obs", "var") if name in file]
            versions = {table.attrs.get("encoding-version") for table in tables}
        if len(tables) < 2 or versions != {_TABLE_VERSION}:
            return read_anndata(part)  # which says what is missing
    return StoredCells(parts)


def names_of(cells: Cells, rows: np.ndarray) -> np.ndarray:
    """Return the names of some cells, object array of str [n]."""
    if isinstance(cells, StoredCells):
        return cells.obs.index[rows]
    return cells.obs_names[rows].to_numpy(dtype=object)


def blocks_of(cells: Cells, layer: str | None) -> Iterator[sp.csr_matrix]:
    """Yield the values of all cells, block after block; nothing where there is no X."""
    if isinstance(cells, StoredCells):
        yield from cells.blocks(layer)
        return
    matrix: Any = cells.X if layer is None else cells.layers[layer]
    if matrix is None:
        return
    if sp.issparse(matrix):
        matrix = sp.csr_matrix(matrix)
    for rows in _cuts(matrix.indptr) if sp.issparse(matrix) else _even_cuts(matrix.shape):
        yield sp.csr_matrix(matrix[rows])


def _column(part: Path, table: str, name: str | None = None) -> Any:
    """Return a column of a table, an array of pandas or NumPy; its index without a name."""
    with reading(part) as file:
        return read_elem(file[table][file[table].attrs["_index"] if name is None else name])


def _genes(part: Path) -> pd.Index:
    return pd.Index(text_of(_column(part, "var")))


def _length(part: Path) -> int:
    with reading(part) as file:
        names: Any = file["obs"][file["obs"].attrs["_index"]]
        # A table may name its cells by a categorical column, or by one that has a mask.
        return int((names["codes" if "codes" in names else "values"] if hasattr(names, "keys") else names).shape[0])


def _blocks(node: Any, shape: tuple[int, int]) -> Iterator[sp.csr_matrix]:
    """Yield the rows of a matrix on disk; one that is stored by columns is read whole."""
    matrix = sparse_dataset(node) if hasattr(node, "keys") else node
    if matrix.shape != shape:
        raise ValueError(f"its expression has the shape {matrix.shape}, not {shape}")
    if matrix is node:
        for rows in _even_cuts(shape):
            yield sp.csr_matrix(node[rows])
        return
    if matrix.format != "csr":
        yield sp.csr_matrix(matrix.to_memory())
        return
    pointers = np.asarray(node["indptr"][:], dtype=np.int64)
    for rows in _cuts(pointers):
        bounds = pointers[rows.start : rows.stop + 1]
        inside = slice(int(bounds[0]), int(bounds[-1]))
        arrays = node["data"][inside], node["indices"][inside], bounds - bounds[0]
        block = sp.csr_matrix(arrays, shape=(rows.stop - rows.start, shape[1]))
        block.check_format()
        yield block


def _cuts(pointers: np.ndarray) -> list[slice]:
    """Cut rows so that each piece has about `BLOCK_VALUES` values."""
    marks = np.arange(0, max(int(pointers[-1]), 1), BLOCK_VALUES)
    return _slices(np.unique(np.append(np.searchsorted(pointers, marks), pointers.size - 1)))


def _even_cuts(shape: tuple[int, int]) -> list[slice]:
    return _slices(np.append(np.arange(0, shape[0], max(1, BLOCK_VALUES // max(shape[1], 1))), shape[0]))


def _slices(bounds: np.ndarray) -> list[slice]:
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds.tolist())]
