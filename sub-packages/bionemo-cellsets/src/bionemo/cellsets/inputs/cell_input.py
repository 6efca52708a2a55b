"""Read cells in blocks of rows, checked: every way that an input can be wrong ends here in one sentence."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from pandas.util import hash_array

from bionemo.cellsets.inputs import matrices
from bionemo.cellsets.inputs.matrices import CscArrays, CsrArrays, DenseArray, Rows
from bionemo.screens.errors import InputError, brief, name_list
from bionemo.screens.obs import text_of

LARGEST_LOG1P = 20.0
"""log1p values are at most this: exp(20) is half a thousand million counts in one gene of one cell."""
LARGEST_COUNT = np.iinfo(np.uint32).max


class CellInput(ABC):
    """A `CellInput` gives the cells of one file or archive, never all at once; many threads may read them."""

    path: Path
    where: str
    """What holds the expression in it, for messages: ``X``, ``layer 'counts'``."""
    n_cells: int
    genes: np.ndarray
    """str [G], in column order."""
    _rows: CsrArrays | CscArrays | DenseArray

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Return the names of the obs columns."""

    @abstractmethod
    def labels(self, column: str, start: int, stop: int) -> np.ndarray:
        """Return one of `columns` in rows [start, stop), object array of str; empty where it has no value."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abstractmethod
    def _stored_names(self, start: int, stop: int) -> np.ndarray:
        """Return the cells' names in rows [start, stop) as they are stored, text or bytes."""

    def names(self, start: int, stop: int) -> np.ndarray:
        """Return the cells' names in rows [start, stop), UTF-8 bytes of a fixed width; empty where one is missing.

        An InputError names the cell whose name is not UTF-8.
        """
        plain = self._stored_names(start, stop)
        listed = plain.tolist()
        row = start
        try:
            if not all(type(name) is bytes for name in listed):
                listed = [name.encode() for name in text_of(plain).tolist()]
            names = np.array(listed, dtype=bytes)
            if (names.view(np.uint8) >= 128).any():
                for row, name in enumerate(listed, start):  # noqa: B007
                    name.decode()
        except UnicodeError as error:
            raise InputError(
                f"The name of cell number {row} of {self.path} is not UTF-8 ({brief(error)}): write the names as UTF-8"
            ) from None
        return names

    def pieces(self, n_values: int) -> list[tuple[int, int]]:
        """Cut the rows into (first, end) of at most about `n_values` values and `BLOCK_ROWS` rows each."""
        try:
            cuts = self._rows.cuts(n_values)
        except InputError:
            raise
        except Exception as error:  # a damaged file, a lost mount
            raise self.damaged(brief(error)) from error
        pieces = []
        for start, stop in itertools.pairwise(cuts.tolist()):
            pieces += [
                (first, min(first + matrices.BLOCK_ROWS, stop)) for first in range(start, stop, matrices.BLOCK_ROWS)
            ]
        return pieces

    def blocks(self, start: int, stop: int, *, already_log1p: bool) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, checked: columns ascend strictly in a row, values may be zero.

        An InputError names the first value that is no count; or no log1p of normalised counts, where `already_log1p`.
        """
        blocks = self._rows.blocks(start, stop)
        while True:
            try:
                block = next(blocks, None)
                if block is None:
                    return
                block = self._usual(block)
            except InputError:
                raise
            except Exception as error:  # a damaged file, a lost mount
                raise self.damaged(brief(error)) from error
            self._refuse_wrong_values(block, already_log1p=already_log1p)
            yield block

    def damaged(self, error: object) -> InputError:
        """Return the error for expression that cannot be read."""
        return InputError(f"{self.where} of {self.path} is a damaged matrix ({error}): write the file again")

    def check_genes(self) -> None:
        """Raise an InputError that names genes which have one name."""
        duplicated = sorted({str(gene) for gene in self.genes[pd.Index(self.genes).duplicated()]})
        if duplicated:
            raise InputError(
                f"{self.path} names {len(duplicated)} genes more than once ({name_list(duplicated)}): "
                "make them distinct, for example with AnnData.var_names_make_unique"
            )

    def refuse_repeated_names(self, hashes: np.ndarray) -> None:
        """Raise an InputError where cells have one name, given the hashes that several names have, maybe by chance."""
        kept = []
        for start in range(0, self.n_cells, matrices.BLOCK_ROWS):
            names = self.names(start, min(start + matrices.BLOCK_ROWS, self.n_cells))
            kept += names[np.isin(name_hashes(names), hashes)].tolist()
        counts = pd.Series(kept).value_counts()
        repeated = sorted(name.decode() for name, count in counts.items() if count > 1)  # pyright: ignore
        if repeated:
            raise InputError(
                f"{self.path} names cells more than once ({name_list(repeated)} among them): "
                "drop the copies, or make the names distinct, for example with AnnData.obs_names_make_unique"
            )

    def _usual(self, block: Rows) -> Rows:
        """Bring rows to the types and the order that the kernels know, or raise ValueError."""
        start, pointers, columns, values = block
        n_columns = len(self.genes)
        if columns.dtype not in (np.int32, np.int64):
            columns = columns.astype(np.int64)
        if values.dtype not in (np.int32, np.float32, np.float64):
            values = values.astype(_usual_type(values.dtype))
        if len(columns) and (columns.min() < 0 or columns.max() >= n_columns):
            raise ValueError(f"an index is outside [0, {n_columns})")
        columns = columns.astype(np.int32, copy=False)
        ascending = np.diff(columns) > 0
        first = pointers[1:-1]
        ascending[first[(first > 0) & (first < len(columns))] - 1] = True  # from one row to the next
        if not ascending.all():
            matrix = sp.csr_matrix((values, columns, pointers), shape=(len(pointers) - 1, n_columns), copy=True)
            matrix.sort_indices()
            values, columns = matrix.data, matrix.indices.astype(np.int32)
            row = np.repeat(np.arange(len(pointers) - 1), np.diff(pointers))
            again = np.flatnonzero((np.diff(columns) == 0) & (np.diff(row) == 0))
            if len(again):
                at = start + int(row[again[0]])
                cell = self.names(at, at + 1)[0].decode()
                raise InputError(
                    f"{self.where} of {self.path} holds several values of gene '{self.genes[columns[again[0]]]}' in "
                    f"cell '{cell}': keep one of each, for example their sum with scipy's sum_duplicates"
                )
        return Rows(start, pointers, columns, values)

    def _refuse_wrong_values(self, block: Rows, *, already_log1p: bool) -> None:
        values = block.values
        largest = LARGEST_LOG1P if already_log1p else LARGEST_COUNT
        whole = already_log1p or values.dtype.kind == "i" or bool((values == np.rint(values)).all())
        if whole and bool(((values >= 0) & (values <= largest)).all()):
            return
        reasons = [
            (~np.isfinite(values), "replace or leave out what is not a finite number"),
            (values < 0, "expression cannot be negative, so choose unscaled counts with --layer"),
        ]
        if already_log1p:
            reasons.append((values > largest, "that is no log1p value, so leave out --log1p"))
        else:
            not_whole = "that is no count, so choose a layer of counts with --layer or say --log1p"
            reasons.append((values != np.rint(values), not_whole))
            reasons.append((values > largest, f"that is more than a count can be here, {largest}"))
        wrong, reason = next((wrong, reason) for wrong, reason in reasons if wrong.any())
        at = int(np.argmax(wrong))
        row = block.start + int(np.searchsorted(block.pointers, at, side="right")) - 1
        cell, gene = self.names(row, row + 1)[0].decode(), self.genes[block.columns[at]]
        raise InputError(f"{self.where} of {self.path} holds {values[at]:g} at cell '{cell}', gene '{gene}': {reason}")


def _usual_type(dtype: np.dtype) -> type:
    if dtype.kind not in "biuf":
        raise ValueError(f"its values are of type {dtype}")
    if dtype.kind == "f":
        return np.float32 if dtype.itemsize <= 4 else np.float64
    return np.int32 if dtype.itemsize < 4 else np.float64  # which holds every number that can be a count


def name_hashes(names: np.ndarray) -> np.ndarray:
    """Return a uint64 hash of each name of a bytes array [n]; equal names have equal hashes."""
    return hash_array(np.array(names.tolist(), dtype=object), categorize=False)  # pyright: ignore
