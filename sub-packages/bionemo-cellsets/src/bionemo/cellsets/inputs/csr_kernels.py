"""Sum up CSR rows, pick genes of them, and put them in another order, in loops that numba compiles.

All of them release the GIL, so threads share the work. Columns must be in range: `CellInput.blocks` checks them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Unsigned indices spare the test for negative ones, without which the loops are several times as fast.


def _survey(pointers, columns, values, position, chosen, target_sum, sums, row_values, marks):
    for row in range(pointers.shape[0] - 1):
        begin, end = np.uint64(pointers[row]), np.uint64(pointers[row + 1])
        total = 0.0
        for k in range(begin, end):
            total += values[k]
        scale = target_sum / max(total, 1.0)
        kept = 0
        mark = 0.0
        for k in range(begin, end):
            place = position[np.uint64(columns[k])]
            value = np.float64(values[k])
            if place < 0 or value == 0.0:
                continue
            kept += 1
            mark += value * (place + 1)
            gene = np.uint64(place)
            sums[gene, 0] += 1.0
            sums[gene, 1] = max(sums[gene, 1], value)
            if chosen[row]:
                scaled = value * scale if target_sum > 0.0 else np.expm1(value)
                sums[gene, 2] += scaled
                sums[gene, 3] += scaled * scaled
        row_values[row] = kept
        marks[row] = mark


def _pick(pointers, columns, values, position, out_values, out_columns, lengths, totals):
    at = np.uint64(0)
    for row in range(pointers.shape[0] - 1):
        begin = at
        total = 0.0
        last = np.int64(-1)
        ascending = True
        for k in range(np.uint64(pointers[row]), np.uint64(pointers[row + 1])):
            value = values[k]
            total += value
            gene = position[np.uint64(columns[k])]
            if gene < 0 or value == 0:
                continue
            ascending &= gene > last
            last = gene
            out_values[at] = value
            out_columns[at] = gene
            at += np.uint64(1)
        if not ascending:
            order = np.argsort(out_columns[begin:at])
            out_columns[begin:at] = out_columns[begin:at][order]
            out_values[begin:at] = out_values[begin:at][order]
        lengths[row] = at - begin
        totals[row] = total
    return at


def _move_rows(source, target, lengths, values, columns, out_values, out_columns):
    for row in range(lengths.shape[0]):
        begin, to, n = np.uint64(source[row]), np.uint64(target[row]), np.uint64(lengths[row])
        for k in range(n):
            out_values[to + k] = values[begin + k]
        for k in range(n):
            out_columns[to + k] = columns[begin + k]


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    import numba  # costs a second to import

    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no writable folder for the cache, as in a read-only container
        return numba.njit(nogil=True)(function)


def survey(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    position: np.ndarray,
    chosen: np.ndarray,
    target_sum: float,
    sums: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Add CSR rows, their columns in range, to the sums over cells of each gene.

    Parameters
    ----------
    rows : pointers int64 [n + 1], columns, values
        Counts, or log1p values.
    position : int64 array
        The gene of each column, -1 to leave it out.
    chosen : bool array [n]
        The rows that count towards the last two sums.
    target_sum : float
        Counts of a row are scaled to it; 0 where values are log1p, which are undone.
    sums : float64 array [G, 4]
        Non-zeros, largest value, sum and sum of squares of normalised counts; changed in place.

    Returns
    -------
    int64 array [n], float64 array [n]
        Non-zeros of each row among the genes; and the sum over the genes of value times the gene's number from 1, which
        tells equal rows, 0 where all is zero.
    """
    row_values, marks = np.empty(len(rows[0]) - 1, dtype=np.int64), np.empty(len(rows[0]) - 1)
    _compiled(_survey)(*rows, position, chosen, float(target_sum), sums, row_values, marks)
    return row_values, marks


def pick(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    position: np.ndarray,
    out_values: np.ndarray,
    out_columns: np.ndarray,
) -> tuple[int, np.ndarray, np.ndarray]:
    """Copy the non-zeros of some columns of CSR rows, whose columns are in range, to the start of two arrays.

    `position` has the new number of each column, -1 to leave it out; the new columns ascend in every row. Return how
    many values were copied, how many of each row, int32 [n], and the sum of each row over all columns, float64 [n].
    """
    n = len(rows[0]) - 1
    lengths, totals = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.float64)
    return int(_compiled(_pick)(*rows, position, out_values, out_columns, lengths, totals)), lengths, totals


def move_rows(
    source: np.ndarray,
    target: np.ndarray,
    lengths: np.ndarray,
    arrays: Sequence[np.ndarray],
    out: Sequence[np.ndarray],
) -> None:
    """Copy rows of `lengths` values from where they begin in both `arrays`, `source`, to `target` in `out`."""
    _compiled(_move_rows)(source, target, lengths, *arrays, *out)
