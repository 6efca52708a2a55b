"""Rows of the store to dense log1p rows, or to their stored values side by side, by compiled kernels and threads.

A count x of a cell with library size n reads as ``log1p(x * target_sum / n)``, computed in float64 and rounded once;
stored log1p values read unchanged.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from bionemo.screens.errors import InputError

if TYPE_CHECKING:
    from bionemo.cellsets.store.cell_store import CellStore

PIECE_ROWS = 128
"""Rows a thread takes at once."""
PAST_CACHES_BYTES = 2**20
"""Fewer bytes of dense rows are left in the caches, where they may soon be read."""
_GROUP_BYTES = 2**16
_TRIALS = 6


class Trial:
    """Two ways to do one thing, taken in turn at first and then the faster one: which that is differs by processor."""

    def __init__(self):
        self._seconds: tuple[list[float], list[float]] = ([], [])
        self._chosen: bool | None = None

    def run(self, work: Callable[[bool], Any], size: int) -> Any:
        """Return ``work(way)``; `size` says how much work it is."""
        if self._chosen is not None:
            return work(self._chosen)
        way = len(self._seconds[True]) < len(self._seconds[False])
        before = time.perf_counter()
        result = work(way)
        self._seconds[way].append((time.perf_counter() - before) / size)
        if way and len(self._seconds[True]) >= _TRIALS:
            self._chosen = median(self._seconds[True]) < median(self._seconds[False])
        return result


_past_caches = Trial()


def densify_rows(store: "CellStore", rows: np.ndarray, out: np.ndarray, pool: Executor | None = None) -> None:
    """Fill dense rows.

    Parameters
    ----------
    store : CellStore
        Where the cells are.
    rows : int64 array [N]
        Store rows, -1 for a row of zeros.
    out : float32 or uint16 array [N, G]
        Filled; uint16 with the bits of bfloat16, rounded to nearest, ties to even.
    pool : Executor, optional
        Threads that share the rows; the kernel releases the GIL, and the numbers are the same with and without them.

    Raises
    ------
    InputError
        If the store's arrays contradict each other there.
    """
    from bionemo.cellsets.store import kernels

    arrays = tuple(np.asarray(stored) for stored in (store.data, store.columns, store.row_pointers))
    if store.kind == "counts":
        kernel, arrays = kernels.densify_counts, (*arrays, np.asarray(store.library_size), store.target_sum)
    else:
        kernel = kernels.densify_values
    row_bytes = out.itemsize * out.shape[1]

    def fill(past_caches: bool) -> int:
        group = max(1, _GROUP_BYTES // row_bytes) if past_caches else 0
        return _in_pieces(kernel, (rows, out), (group, *arrays), pool)

    if out.nbytes < PAST_CACHES_BYTES or not out.flags.aligned:
        refuse_damaged(store, fill(False))
    else:
        refuse_damaged(store, _past_caches.run(fill, out.nbytes))


def gather_rows(
    store: "CellStore",
    rows: np.ndarray,
    first: np.ndarray,
    out_data: np.ndarray,
    out_columns: np.ndarray,
    pool: Executor | None = None,
) -> None:
    """Copy the stored values of rows side by side.

    Parameters
    ----------
    store : CellStore
        Where the cells are.
    rows : int64 array [N]
        Store rows whose pointers are sound, -1 for none.
    first : int64 array [N]
        Where the values of each go.
    out_data, out_columns : arrays of the store's types
        Filled.
    pool : Executor, optional
        As for `densify_rows`.

    Raises
    ------
    InputError
        If a column is none of the store's genes.
    """
    from bionemo.cellsets.store import kernels

    arrays = (np.asarray(stored) for stored in (store.data, store.columns, store.row_pointers))
    others = (out_data, out_columns, *arrays, store.n_genes)
    refuse_damaged(store, _in_pieces(kernels.gather, (rows, first), others, pool))


def refuse_damaged(store: "CellStore", row: int) -> None:
    """Raise `InputError` about a row that a kernel found damaged; -1 means none."""
    if row >= 0:
        raise InputError(f"Row {row} of the store {store.path} is damaged: copy or prepare the store again")


def _in_pieces(
    kernel: Callable[..., Any], by_row: Sequence[np.ndarray], others: Sequence[Any], pool: Executor | None
) -> int:
    n_rows = len(by_row[0])
    if n_rows == 0:
        return -1
    if pool is None or n_rows <= PIECE_ROWS:
        return int(kernel(*by_row, *others))
    pieces = [slice(start, start + PIECE_ROWS) for start in range(0, n_rows, PIECE_ROWS)]
    running = [pool.submit(kernel, *(array[piece] for array in by_row), *others) for piece in pieces]
    return next((row for row in [int(future.result()) for future in running] if row >= 0), -1)
