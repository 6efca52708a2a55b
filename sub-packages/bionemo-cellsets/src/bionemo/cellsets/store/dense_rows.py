"""Make rows of the store dense, or copy their values side by side, with compiled kernels and threads.

A count x of a cell with library size n reads as ``log1p(x * target_sum / n)``, computed in float64 and rounded once;
stored log1p values read unchanged.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bionemo.screens.errors import InputError

PIECE_ROWS = 128
"""Rows a thread takes at once."""


class StoredArrays(Protocol):
    """A `StoredArrays` is what a `CellStore` has of these attributes; its docstring says what they are."""

    path: Path
    kind: str
    n_genes: int
    target_sum: float
    data: np.memmap
    columns: np.memmap
    row_pointers: np.memmap
    library_size: np.ndarray


def densify_rows(store: StoredArrays, rows: np.ndarray, out: np.ndarray, pool: Executor | None = None) -> None:
    """Fill dense rows, float32 or uint16 [N, G], of store rows, int64 [N], with zeros for row -1.

    uint16 has the bits of bfloat16, rounded to nearest, ties to even. The threads of a pool share the rows: the kernel
    releases the GIL, and the numbers are the same with and without them.

    Raises
    ------
    InputError
        If the store's arrays contradict each other there.
    """
    from bionemo.cellsets.store import kernels

    if store.kind == "counts":
        kernel, others = kernels.densify_counts, (np.asarray(store.library_size), store.target_sum)
    else:
        kernel, others = kernels.densify_values, ()
    refuse_damaged(store, _in_pieces(kernel, (rows, out), (*_arrays(store), *others), pool))


def gather_rows(
    store: StoredArrays,
    rows: np.ndarray,
    first: np.ndarray,
    out_data: np.ndarray,
    out_columns: np.ndarray,
    pool: Executor | None = None,
) -> None:
    """Copy the stored values of rows, int64 [N], -1 for none, to where `first`, int64 [N], says in two arrays.

    The rows' pointers must be sound. The threads of a pool share the rows.

    Raises
    ------
    InputError
        If a column is none of the store's genes.
    """
    from bionemo.cellsets.store import kernels

    refuse_damaged(store, _in_pieces(kernels.gather, (rows, first), (out_data, out_columns, *_arrays(store)), pool))


def refuse_damaged(store: StoredArrays, row: int) -> None:
    """Raise `InputError` about a row that a kernel found damaged; -1 means none."""
    if row >= 0:
        raise InputError(f"Row {row} of the store {store.path} is damaged: copy or prepare the store again")


def _arrays(store: StoredArrays) -> tuple[Any, ...]:
    return *(np.asarray(stored) for stored in (store.data, store.columns, store.row_pointers)), store.n_genes


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
