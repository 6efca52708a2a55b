"""Read an uncompressed CSR h5ad file in the order of the conditions by h5py, one slice a set."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from driver_protocol import serve
from sorted_sets import Layout, SetReader, concatenated


class H5Csr:
    """An `H5Csr` is the CSR group X of a file whose arrays are contiguous."""

    def __init__(self, path: Path):
        matrix: Any = h5py.File(path, "r")["X"]
        self._data, self._indices, self._indptr = matrix["data"], matrix["indices"], matrix["indptr"][:]

    def slices(self, bounds: list[tuple[int, int]]) -> tuple[np.ndarray, ...]:
        """Return values, columns and pointers of the rows of several slices."""
        parts, lengths = [], []
        for begin, end in bounds:
            first, last = self._indptr[begin], self._indptr[end]
            parts.append((self._data[first:last], self._indices[first:last]))
            lengths.append(np.diff(self._indptr[begin : end + 1]))
        return concatenated(parts, lengths)


def open_data(path: Path, options: dict[str, Any]) -> SetReader:
    """Open the sorted file."""
    return SetReader(H5Csr(path / "data.h5ad"), Layout(path), options)


def convert(source: Path, target: Path, options: dict[str, Any]) -> None:
    """Sort the screen by condition, in memory."""
    from bionemo.bench.harness.screen import sort_screen

    sort_screen(source, target)


if __name__ == "__main__":
    serve(open_data, convert)
