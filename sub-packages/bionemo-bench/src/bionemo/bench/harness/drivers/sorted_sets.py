"""Loop over a file that is sorted by condition as a user would, for formats that leave the loop to the user.

Each run of one condition is cut into slices of S consecutive rows, the slices are shuffled, and B of them are a batch.
Control cells are not read. The rows are normalised and made dense with NumPy and SciPy.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from driver_protocol import Batch


class CsrSource(Protocol):
    """A `CsrSource` gives rows of a file as CSR."""

    def slices(self, bounds: list[tuple[int, int]]) -> tuple[np.ndarray, ...]:
        """Return values, columns and pointers of the rows of several slices, one after another."""
        ...


class Layout:
    """A `Layout` knows where the runs of the sorted file are, and what normalises its rows; sorting wrote it."""

    def __init__(self, folder: Path):
        self.cell_of_row = np.load(folder / "cell_of_row.npy", mmap_mode="r")
        self.library_size = np.load(folder / "library_size.npy")
        self.runs = np.load(folder / "runs.npy")
        facts = json.loads((folder / "facts.json").read_text())
        self.n_genes, self.target_sum = int(facts["genes"]), float(facts["target_sum"])
        self.scale = (self.target_sum / np.maximum(self.library_size, 1)).astype(np.float32)

    def sets(self, set_size: int, seed: int) -> np.ndarray:
        """Return the first and the last row (exclusive) of the sets of perturbed cells of an epoch, in random order."""
        bounds = []
        for start, length in self.runs[~self.runs["is_control"]][["start", "length"]]:
            begin = np.arange(start, start + length, set_size)
            bounds.append(np.stack([begin, np.minimum(begin + set_size, start + length)], axis=1))
        return np.random.default_rng(seed).permutation(np.concatenate(bounds))


class SetReader:
    """A `SetReader` loops over the slices of a `CsrSource`."""

    def __init__(self, source: CsrSource, layout: Layout, options: dict[str, Any]):
        self._source, self._layout, self._epoch = source, layout, 0
        self._set_size, self._sets_per_batch = options["set_size"], options["sets_per_batch"]
        self.cell_of_row = layout.cell_of_row
        # Memory is used again, as in the loaders that are compared.
        self._out = np.empty((self._set_size * self._sets_per_batch, layout.n_genes), dtype=np.float32)

    def batches(self) -> Iterator[Batch]:
        """Loop over one epoch."""
        self._epoch += 1
        sets = self._layout.sets(self._set_size, self._epoch)
        for first in range(0, len(sets), self._sets_per_batch):
            bounds = sets[first : first + self._sets_per_batch].tolist()
            rows = np.concatenate([np.arange(*bound) for bound in bounds])
            values, columns, pointers = self._source.slices(bounds)
            out = self._out[: len(rows)]
            yield Batch(rows, log1p_rows(values, columns, pointers, self._layout.scale[rows], out))


def log1p_rows(
    values: np.ndarray, columns: np.ndarray, pointers: np.ndarray, scale: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """Fill `out` with ``log1p(values * scale of the row)`` and return it."""
    scaled = values * np.repeat(scale, np.diff(pointers))
    np.log1p(scaled, out=scaled)
    return sp.csr_matrix((scaled, columns, pointers), shape=out.shape, copy=False).toarray(out=out)


def concatenated(parts: list[tuple[np.ndarray, np.ndarray]], lengths: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Join values and columns of several slices, given the lengths of their rows."""
    pointers = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), pointers
