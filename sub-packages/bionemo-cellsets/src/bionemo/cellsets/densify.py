"""Rows of the store to dense float32 log1p rows, in one compiled kernel.

A count x of a cell with library size n reads as ``log1p(x * target_sum / n)``; stored log1p values read unchanged.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np


def _densify(rows, data, columns, row_pointers, library_size, target_sum, is_counts, out):
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


@functools.cache
def kernel() -> Callable[..., Any]:
    """Compile the kernel on first use.

    Returns
    -------
    callable
        ``kernel(rows, data, columns, row_pointers, library_size, target_sum, is_counts, out)`` fills `out`
        float32 [N, G] with the rows named in `rows` int64 [N] (-1 leaves a row of zeros), releases the GIL, and
        returns -1, or the first row whose stored indices are damaged.
    """
    import numba  # compiled code costs a second to import, so only a process that reads cells pays for it

    try:
        return numba.njit(nogil=True, cache=True)(_densify)
    except RuntimeError:  # no writable folder for the cache, as in a read-only container
        return numba.njit(nogil=True)(_densify)
