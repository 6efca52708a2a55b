"""Open what prediction reads: cells on disk or in memory, their labels at once, their expression as it is needed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from bionemo.cellsets import CellStore
from bionemo.cellsets.inputs.anndata_files import row_reader
from bionemo.screens.errors import InputError
from bionemo.screens.files import read_anndata, reading
from bionemo.screens.obs import labels_of, look_alikes

Cells = str | Path | ad.AnnData
"""An h5ad file, a zarr directory or a store that ``prepare`` wrote, or cells that are in memory already."""
FARTHEST, MOST_ROWS = 64, 4096
"""Rows of a file are read together where no more lie between them, and no more than so many at once."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """`Columns` says where a file keeps its labels: names of `obs` columns, and the label of control cells.

    A key ``A+B`` that is no column itself joins the columns A and B, as ``prepare`` does.
    """

    perturbation: str
    context: str
    batch: str | None
    control: str


class OpenCells(ABC):
    """`OpenCells` are cells whose labels are in memory and whose expression is read as it is asked for."""

    obs: pd.DataFrame
    """A row a cell, named by its index."""
    genes: pd.Index
    """Names, in the order of the columns."""
    source: str
    """What messages call them."""

    @abstractmethod
    def check(self) -> None:
        """Raise an InputError where there is no such layer, or no expression."""

    @abstractmethod
    def read(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Return the values of ascending rows as they are stored, [n, genes]."""

    def library(self, rows: np.ndarray, values: sparse.csr_matrix) -> np.ndarray:
        """Return the counts of cells over all genes that were measured, float64 [n]; ``values`` are what was read."""
        return np.asarray(values.sum(1), dtype=np.float64).ravel()


def opened(cells: Cells, layer: str | None = None) -> OpenCells:
    """Open cells; their expression is read later.

    An InputError says that the file is absent, no AnnData and no store, leads to other files, or has no such layer.
    """
    if isinstance(cells, ad.AnnData):
        return _InMemory(cells, layer)
    if (Path(cells) / "manifest.json").is_file():
        return _Stored(CellStore.open(cells), layer)
    return _OnDisk(Path(cells), layer)


class _InMemory(OpenCells):
    """AnnData; one that is backed by a file reads it itself."""

    source = "the AnnData"

    def __init__(self, cells: ad.AnnData, layer: str | None):
        self.obs, self.genes = pd.DataFrame(cells.obs), cells.var_names
        self._cells, self._layer = cells, layer

    def check(self) -> None:
        _check_layer(self._layer, list(self._cells.layers), self._cells.X is not None, self.source)

    @cached_property
    def _matrix(self) -> Any:
        return self._cells.X if self._layer is None else self._cells.layers[self._layer]

    def read(self, rows: np.ndarray) -> sparse.csr_matrix:
        return sparse.csr_matrix(self._matrix[rows])


class _OnDisk(OpenCells):
    """An h5ad file or a zarr directory."""

    def __init__(self, path: Path, layer: str | None):
        tables = read_anndata(path, obs_only=True)
        self.obs, self.genes, self.source = pd.DataFrame(tables.obs), tables.var_names, str(path)
        self._path, self._layer = path, layer

    def check(self) -> None:
        with reading(self._path) as file:
            layers = list(file["layers"].keys()) if "layers" in file else []
            _check_layer(self._layer, layers, "X" in file, self.source)

    def read(self, rows: np.ndarray) -> sparse.csr_matrix:
        parts = [sparse.csr_matrix((0, len(self.genes)), dtype=np.float32)]
        with reading(self._path) as file:
            matrix = row_reader(file["X" if self._layer is None else f"layers/{self._layer}"])
            for run in _runs(rows):
                for block in matrix.blocks(int(run[0]), int(run[-1]) + 1):
                    inside = run[(run >= block.start) & (run < block.start + len(block.pointers) - 1)] - block.start
                    shape = len(block.pointers) - 1, len(self.genes)
                    values = sparse.csr_matrix((block.values, block.columns, block.pointers), shape=shape)
                    values.check_format()
                    parts.append(values[inside])  # pyright: ignore[reportIndexIssue]
        return sparse.csr_matrix(sparse.vstack(parts))


class _Stored(OpenCells):
    """A store, whose genes may be fewer than were measured."""

    def __init__(self, store: CellStore, layer: str | None):
        if layer is not None:
            raise InputError(f"{store.path} is a store, which has no layers: leave --layer out.")
        self.obs = store.obs().rename(columns={kind: key for kind, key in store.keys.items() if key})
        self.genes, self.source, self._store = pd.Index(store.genes), str(store.path), store

    def check(self) -> None:
        """Do nothing: a store has its expression."""

    def read(self, rows: np.ndarray) -> sparse.csr_matrix:
        parts = [sparse.csr_matrix((0, len(self.genes)), dtype=np.float32)]
        for run in _runs(rows):
            first = int(run[0])
            parts.append(self._store.counts(first, int(run[-1]) + 1 - first)[run - first])  # pyright: ignore[reportIndexIssue]
        return sparse.csr_matrix(sparse.vstack(parts))

    def library(self, rows: np.ndarray, values: sparse.csr_matrix) -> np.ndarray:
        return self._store.library_size[rows].astype(np.float64)


def _check_layer(layer: str | None, there: list[str], has_x: bool, source: str) -> None:
    at_hand = ", ".join(there) or "none"
    if layer is not None and layer not in there:
        raise InputError(f"{source} has no layer {layer!r}; it has {at_hand}.")
    if layer is None and not has_x:
        raise InputError(f"{source} has no X; name one of its layers with --layer: {at_hand}.")


def _runs(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Cut ascending rows where many others lie between two of them."""
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > FARTHEST) + 1):
        for first in range(0, len(run), MOST_ROWS):
            yield run[first : first + MOST_ROWS]


def perturbations_of(obs: pd.DataFrame, columns: Columns, name: str) -> np.ndarray:
    """Return the perturbation label of every cell, object array of str [cells].

    An InputError says that the column is missing, a cell has no label, or a label is the control's but for capitals or
    blanks.
    """
    labels = labels_of(obs, columns.perturbation, name)
    look_alikes(set(labels), columns.perturbation, name, control=columns.control)
    return labels


def has_key(obs: pd.DataFrame, key: str) -> bool:
    """Say whether `obs` has the column, or all the columns, that a key names."""
    return key in obs or all(column in obs for column in key.split("+"))
