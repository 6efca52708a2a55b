"""Compiled kernels: rows of the store to dense float32 log1p rows, or to their CSR values side by side.

A count x of a cell with library size n reads as ``log1p(x * target_sum / n)``; stored log1p values read unchanged.
"""

import functools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np

PIECE_ROWS = 128
"""Rows a thread takes at once."""


def _densify(rows, out, data, columns, row_pointers, library_size, target_sum, is_counts):
    n_genes = np.uint32(out.shape[1])
    n_values = data.shape[0]
    for i in range(rows.shape[0]):
        out[i, :] = np.float32(0.0)
        row = rows[i]
        if row < 0:
            continue
        begin = np.int64(row_pointers[row])
        end = np.int64(row_pointers[row + 1])
        # A damaged store must end in an error, not in a write outside the buffer.
        if begin < 0 or begin > end or end > n_values:
            return row
        scale = np.float32(1.0)
        if is_counts and end > begin:
            if not library_size[row] > 0:
                return row
            scale = np.float32(target_sum / library_size[row])
        for k in range(begin, end):
            column = np.uint32(columns[k])
            if column >= n_genes:
                return row
            value = np.float32(data[k])
            out[i, column] = np.log1p(value * scale) if is_counts else value
    return np.int64(-1)


def _gather(rows, first, out_data, out_columns, data, columns, row_pointers, n_genes):
    for i in range(rows.shape[0]):
        row = rows[i]
        if row < 0:
            continue
        begin = np.int64(row_pointers[row])
        end = np.int64(row_pointers[row + 1])
        at = first[i]
        for k in range(begin, end):
            if columns[k] >= n_genes:
                return row
            out_data[at] = data[k]
            out_columns[at] = columns[k]
            at += 1
    return np.int64(-1)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    import numba  # compiled code costs a second to import, so only a process that reads cells pays for it

    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no writable folder for the cache, as in a read-only container
        return numba.njit(nogil=True)(function)


def densify_rows(rows: np.ndarray, out: np.ndarray, *arguments: Any, pool: Executor | None = None) -> int:
    """Fill dense rows.

    Parameters
    ----------
    rows : int64 array [N]
        Store rows, -1 for a row of zeros.
    out : float32 array [N, G]
        Filled.
    *arguments
        ``data, columns, row_pointers, library_size, target_sum, is_counts`` of the store.
    pool : Executor, optional
        Threads that share the rows; the kernel releases the GIL, and the numbers are the same with and without them.

    Returns
    -------
    int
        -1, or the first row found whose stored indices are damaged.
    """
    return _in_pieces(_compiled(_densify), (rows, out), arguments, pool)


def gather_rows(
    rows: np.ndarray,
    first: np.ndarray,
    out_data: np.ndarray,
    out_columns: np.ndarray,
    *arguments: Any,
    pool: Executor | None = None,
) -> int:
    """Copy the stored values of rows side by side.

    Parameters
    ----------
    rows : int64 array [N]
        Store rows whose pointers are sound, -1 for none.
    first : int64 array [N]
        Where the values of each go.
    out_data, out_columns : arrays of the store's types
        Filled.
    *arguments
        ``data, columns, row_pointers, n_genes`` of the store.
    pool : Executor, optional
        As for `densify_rows`.

    Returns
    -------
    int
        -1, or the first row found whose columns are damaged.
    """
    return _in_pieces(_compiled(_gather), (rows, first), (out_data, out_columns, *arguments), pool)


def _in_pieces(
    kernel: Callable[..., Any], by_row: tuple[np.ndarray, ...], others: tuple[Any, ...], pool: Executor | None
) -> int:
    n_rows = len(by_row[0])
    if pool is None or n_rows <= PIECE_ROWS:
        return int(kernel(*by_row, *others))
    pieces = [slice(start, start + PIECE_ROWS) for start in range(0, n_rows, PIECE_ROWS)]
    running = [pool.submit(kernel, *(array[piece] for array in by_row), *others) for piece in pieces]
    return next((row for row in [int(future.result()) for future in running] if row >= 0), -1)
