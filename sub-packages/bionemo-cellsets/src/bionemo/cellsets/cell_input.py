"""What `prepare` reads: cells in blocks of rows, checked; every way an input can be wrong ends here in one sentence."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.cellsets import csr_kernels
from bionemo.cellsets.errors import InputError, brief, name_list

BLOCK_VALUES = 2**21
"""Values read at once by a thread; what a block takes in memory is some 20 bytes a value."""
BLOCK_ROWS = 2**17
"""Rows, and labels or names, read at once."""
LARGEST_LOG1P = 20.0
"""log1p values stay below: exp(20) is half a thousand million counts in one gene of one cell."""
LARGEST_COUNT = np.iinfo(np.uint32).max


class Rows(NamedTuple):
    """Consecutive rows, CSR.

    Attributes
    ----------
    start : int
        The first of them.
    pointers : int64 array [n + 1]
        From 0.
    columns, values : arrays
        int32; and int32, float32 or float64.
    """

    start: int
    pointers: np.ndarray
    columns: np.ndarray
    values: np.ndarray


class CellInput(ABC):
    """Cells of one file or archive, never all of them in memory; many threads may read them.

    Attributes
    ----------
    path : Path
        Where they are.
    where : str
        What of it holds the expression, for messages: ``X``, ``layer 'counts'``.
    n_cells : int
        Rows.
    genes : array of str [G]
        Gene names, in column order.
    """

    path: Path
    where: str
    n_cells: int
    genes: np.ndarray

    @abstractmethod
    def names(self, start: int, stop: int) -> np.ndarray:
        """Return the cells' names in rows [start, stop), UTF-8 bytes of a fixed width."""

    @abstractmethod
    def labels(self, key: str, start: int, stop: int) -> np.ndarray:
        """Return an obs column in rows [start, stop), object array of str; empty where it has no value.

        `key` may be several columns joined by ``+``; their values are joined the same way.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abstractmethod
    def _cuts(self, n_values: int) -> np.ndarray:
        """Return row numbers from 0 to `n_cells` between which lie at most `n_values` values, if more than one row."""

    @abstractmethod
    def _stored(self, start: int, stop: int) -> Iterator[Rows]:
        """Yield rows [start, stop) in order as they are stored, in blocks of about `BLOCK_VALUES`."""

    def pieces(self, n_values: int) -> list[tuple[int, int]]:
        """Cut the rows into (first, end) of at most about `n_values` values and `BLOCK_ROWS` rows each."""
        try:
            cuts = self._cuts(n_values)
        except InputError:
            raise
        except Exception as error:  # a damaged file, a lost mount
            raise self.damaged(brief(error)) from error
        pieces = []
        for start, stop in itertools.pairwise(cuts.tolist()):
            pieces += [(first, min(first + BLOCK_ROWS, stop)) for first in range(start, stop, BLOCK_ROWS)]
        return pieces

    def blocks(self, start: int, stop: int, *, already_log1p: bool) -> Iterator[Rows]:
        """Yield rows in order.

        Parameters
        ----------
        start, stop : int
            The first, and the one after the last.
        already_log1p : bool
            The values are log1p of normalised counts, not counts.

        Yields
        ------
        Rows
            Checked; columns ascend strictly in a row. Zeros may be among the values.

        Raises
        ------
        InputError
            For the first value that is no count or no log1p value.
        """
        blocks = self._stored(start, stop)
        while True:
            try:
                block = next(blocks, None)
                if block is None:
                    return
                block = _usual(block, len(self.genes))
            except InputError:
                raise
            except Exception as error:  # a damaged file, a lost mount
                raise self.damaged(brief(error)) from error
            limit = LARGEST_LOG1P if already_log1p else LARGEST_COUNT
            if not csr_kernels.all_valid(block.values, largest=limit, whole=not already_log1p):
                self._refuse(block, already_log1p=already_log1p)
            yield block

    def damaged(self, error: object) -> InputError:
        """Return the error for expression that cannot be read."""
        return InputError(f"{self.where} of {self.path} is a damaged matrix ({error}): write the file again")

    def check_genes(self) -> None:
        """Refuse genes of one name.

        Raises
        ------
        InputError
            Naming some of them.
        """
        duplicated = sorted({str(gene) for gene in self.genes[pd.Index(self.genes).duplicated()]})
        if duplicated:
            raise InputError(
                f"{self.path} names {len(duplicated)} genes more than once ({name_list(duplicated)}): "
                "make them distinct, for example with AnnData.var_names_make_unique"
            )

    def refuse_repeated_names(self, hashes: np.ndarray) -> None:
        """Refuse cells of one name.

        Parameters
        ----------
        hashes : uint64 array
            Hashes of names that several cells have; those of different names may be alike by chance.
        """
        kept = []
        for start in range(0, self.n_cells, BLOCK_ROWS):
            names = self.names(start, min(start + BLOCK_ROWS, self.n_cells))
            kept += names[np.isin(csr_kernels.hash_names(names), hashes)].tolist()
        counts = pd.Series(kept).value_counts()
        repeated = sorted(name.decode() for name, count in counts.items() if count > 1)  # pyright: ignore
        if repeated:
            raise InputError(
                f"{self.path} names cells more than once ({name_list(repeated)} among them): "
                "drop the copies, or make the names distinct, for example with AnnData.obs_names_make_unique"
            )

    def _refuse(self, block: Rows, *, already_log1p: bool) -> None:
        values = block.values
        reasons = [
            (~np.isfinite(values), "replace or leave out what is not a finite number"),
            (values < 0, "expression cannot be negative, so choose unscaled counts with --layer"),
        ]
        if already_log1p:
            reasons.append((values > LARGEST_LOG1P, "that is no log1p value, so leave out --log1p"))
        else:
            not_whole = "that is no count, so choose a layer of counts with --layer or say --log1p"
            reasons.append((values != np.rint(values), not_whole))
            reasons.append((values > LARGEST_COUNT, f"that is more than a count can be here, {LARGEST_COUNT}"))
        for wrong, reason in reasons:
            if wrong.any():
                at = int(np.argmax(wrong))
                row = block.start + int(np.searchsorted(block.pointers, at, side="right")) - 1
                cell, gene = self.names(row, row + 1)[0].decode(), self.genes[block.columns[at]]
                raise InputError(
                    f"{self.where} of {self.path} holds {values[at]:g} at cell '{cell}', gene '{gene}': {reason}"
                )


class CsrArrays:
    """A CSR matrix whose arrays are read in slices.

    Parameters
    ----------
    data, indices, indptr : arrays
        Anything that slices to NumPy arrays: of memory, HDF5, zarr, or a file.
    shape : tuple of int
        Rows and columns.
    """

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]):
        self._data, self._indices, self._indptr = data, indices, indptr
        self._n_rows, _ = shape

    def cuts(self, n_values: int) -> np.ndarray:
        """As `CellInput._cuts`."""
        cuts = [0]
        for start in range(0, self._n_rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, self._n_rows)
            cuts += (start + cut(self._pointers(start, stop), n_values)[1:]).tolist()
        return np.array(cuts)

    def blocks(self, start: int, stop: int) -> Iterator[Rows]:
        """As `CellInput._stored`."""
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


def _usual(block: Rows, n_columns: int) -> Rows:
    """Bring rows to the types and the order that the kernels know, or raise ValueError."""
    start, pointers, columns, values = block
    if columns.dtype not in (np.int32, np.int64):
        columns = columns.astype(np.int64)
    if values.dtype not in (np.int32, np.float32, np.float64):
        values = values.astype(_usual_type(values.dtype))
    order = csr_kernels.order_of_columns(pointers, columns, n_columns)
    if order == csr_kernels.OUTSIDE:
        raise ValueError(f"an index is outside [0, {n_columns})")
    columns = columns.astype(np.int32, copy=False)
    if order == csr_kernels.UNSORTED:
        matrix = sp.csr_matrix((values, columns, pointers), shape=(len(pointers) - 1, n_columns), copy=True)
        matrix.sum_duplicates()
        pointers, columns, values = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data
    return Rows(start, pointers, columns, values)


def _usual_type(dtype: np.dtype) -> type:
    if dtype.kind not in "biuf":
        raise ValueError(f"its values are of type {dtype}")
    if dtype.kind == "f":
        return np.float32 if dtype.itemsize <= 4 else np.float64
    return np.int32 if dtype.itemsize < 4 else np.float64  # which holds every number that can be a count
