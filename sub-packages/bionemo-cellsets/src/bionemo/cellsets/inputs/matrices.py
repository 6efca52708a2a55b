"""Read matrices in files, CSR, CSC or dense, as blocks of CSR rows."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

BLOCK_VALUES = 2**21
"""Values read at once by a thread; what a block takes in memory is some 20 bytes a value."""
BLOCK_ROWS = 2**17
"""Rows, and labels or names, read at once."""
_COLUMN_GROUP_ROWS = 256
"""Rows whose values are counted together to cut a matrix stored by column into blocks of rows."""


class Rows(NamedTuple):
    """A `Rows` holds n consecutive rows, CSR."""

    start: int  # number of the first row
    pointers: np.ndarray  # int64 [n + 1], from 0
    columns: np.ndarray  # int32
    values: np.ndarray  # int32, float32 or float64


class CsrArrays:
    """A `CsrArrays` is a CSR matrix whose arrays are read in slices.

    They are anything that slices to NumPy arrays: arrays in memory, in HDF5, in zarr, or in a file.
    """

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]):
        self._data, self._indices, self._indptr = data, indices, indptr
        self._n_rows, _ = shape

    def cuts(self, n_values: int) -> np.ndarray:
        """Return row numbers between which lie at most `n_values` values, if more than one row."""
        cuts = [0]
        for start in range(0, self._n_rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, self._n_rows)
            cuts += (start + cut(self._pointers(start, stop), n_values)[1:]).tolist()
        return np.array(cuts)

    def blocks(self, start: int, stop: int) -> Iterator[Rows]:
        """Yield rows [start, stop) in order as they are stored, in blocks of about `BLOCK_VALUES`."""
        pointers = self._pointers(start, stop)
        cuts = cut(pointers, BLOCK_VALUES)
        for first, end in itertools.pairwise(cuts):
            inside = pointers[first : end + 1]
            values, columns = (np.asarray(stored[inside[0] : inside[-1]]) for stored in (self._data, self._indices))
            yield Rows(start + int(first), inside - inside[0], columns, values)

    def _pointers(self, start: int, stop: int) -> np.ndarray:
        return checked_pointers(self._indptr[start : stop + 1], stop - start, self._data, self._indices)


def checked_pointers(pointers: Any, n: int, data: Any, indices: Any) -> np.ndarray:
    """Return `n` + 1 row or column pointers as int64, or raise ValueError where they are none."""
    pointers = np.asarray(pointers).astype(np.int64)
    if len(pointers) != n + 1 or np.any(np.diff(pointers) < 0) or pointers[0] < 0:
        raise ValueError("its row or column pointers are not ascending")
    if pointers[-1] > min(data.shape[0], indices.shape[0]):
        raise ValueError("its pointers go beyond its values")
    return pointers


def cut(pointers: np.ndarray, n_values: int) -> np.ndarray:
    """Return positions from 0 to the last pointer between which lie at most `n_values`, if more than one entry."""
    cuts = [0]
    while cuts[-1] < len(pointers) - 1:
        fitting = int(np.searchsorted(pointers, pointers[cuts[-1]] + n_values, side="right")) - 1
        cuts.append(max(fitting, cuts[-1] + 1))
    return np.array(cuts)


class DenseArray:
    """A `DenseArray` is a dense matrix that is read in slices of its rows."""

    def __init__(self, array: Any, shape: tuple[int, int]):
        self._array, (self._n_rows, self._n_columns) = array, shape

    def cuts(self, n_values: int) -> np.ndarray:
        """Return row numbers between which lie at most `n_values` values, if more than one row."""
        rows = max(1, n_values // self._n_columns)
        return np.append(np.arange(0, self._n_rows, rows), self._n_rows)

    def blocks(self, start: int, stop: int) -> Iterator[Rows]:
        """Yield rows [start, stop) in order as they are stored, in blocks of about `BLOCK_VALUES`."""
        rows = max(1, BLOCK_VALUES // self._n_columns)
        for first in range(start, stop, rows):
            matrix = sp.csr_matrix(np.asarray(self._array[first : min(first + rows, stop)]))
            yield Rows(first, matrix.indptr.astype(np.int64), matrix.indices, matrix.data)


class CscArrays:
    """A `CscArrays` is a CSC matrix; every piece of rows takes a scan of the whole of it."""

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]):
        self._data, self._indices, self._indptr = data, indices, indptr
        self._n_rows, self._n_columns = shape

    def cuts(self, n_values: int) -> np.ndarray:
        """Return row numbers between which lie at most `n_values` values, if more than one row."""
        per_group = np.zeros(-(-self._n_rows // _COLUMN_GROUP_ROWS), dtype=np.int64)
        for begin, end, _ in self._chunks():
            rows = np.asarray(self._indices[begin:end])
            if len(rows) and (rows.min() < 0 or rows.max() >= self._n_rows):
                raise ValueError(f"an index is outside [0, {self._n_rows})")
            per_group += np.bincount(rows // _COLUMN_GROUP_ROWS, minlength=len(per_group))
        before = np.concatenate([[0], np.cumsum(per_group)])
        groups = cut(before, n_values)
        return np.minimum(groups * _COLUMN_GROUP_ROWS, self._n_rows)

    def blocks(self, start: int, stop: int) -> Iterator[Rows]:
        """Yield rows [start, stop) in order as they are stored, in blocks of about `BLOCK_VALUES`."""
        parts = []
        for begin, end, pointers in self._chunks():
            rows = np.asarray(self._indices[begin:end])
            inside = np.flatnonzero((rows >= start) & (rows < stop))
            columns = np.searchsorted(pointers, begin + inside, side="right") - 1
            values = np.asarray(self._data[begin:end])[inside]
            parts.append((values, (rows[inside] - start).astype(np.int32), columns.astype(np.int32)))
        values, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(rows, kind="stable")
        pointers = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=stop - start))])
        yield Rows(start, pointers.astype(np.int64), columns[order], values[order])

    def _chunks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        pointers = checked_pointers(self._indptr[0 : self._n_columns + 1], self._n_columns, self._data, self._indices)
        for begin in range(0, max(int(pointers[-1]), 1), BLOCK_VALUES):
            yield begin, min(begin + BLOCK_VALUES, int(pointers[-1])), pointers
