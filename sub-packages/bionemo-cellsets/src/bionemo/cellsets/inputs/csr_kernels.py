"""Sum up CSR rows, pick genes of them, and put them in another order, in loops that numba compiles.

All of them release the GIL, so threads share the work. Columns must be in range: `CellInput.blocks` checks them.
"""

import numpy as np

from bionemo.cellsets.store.compiled import compiled

# Unsigned indices spare the test for negative ones, without which the loops are several times as fast.


@compiled
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


@compiled
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


@compiled
def move_rows(source, target, lengths, values, columns, out_values, out_columns):
    """Copy rows of `lengths` values from where they begin in two arrays, `source`, to `target` in two others."""
    for row in range(lengths.shape[0]):
        begin, to, n = np.uint64(source[row]), np.uint64(target[row]), np.uint64(lengths[row])
        for k in range(n):
            out_values[to + k] = values[begin + k]
        for k in range(n):
            out_columns[to + k] = columns[begin + k]


def survey(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    position: np.ndarray,
    chosen: np.ndarray,
    target_sum: float,
    sums: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Add CSR rows (pointers int64 [n + 1], columns in range, counts or log1p values) to the sums of each gene.

    `position` has the gene of each column, int64, -1 to leave it out. The `sums`, float64 [G, 4], are non-zeros, the
    largest value, and the sum and sum of squares of normalised counts, towards which the `chosen` rows, bool [n],
    count. Counts of a row are scaled to `target_sum`; it is 0 where values are log1p, which are undone. Return the
    non-zeros of each row among the genes, int64 [n], and the sum over the genes of value times the gene's number from
    1, float64 [n], which tells equal rows, 0 where all is zero.
    """
    row_values, marks = np.empty(len(rows[0]) - 1, dtype=np.int64), np.empty(len(rows[0]) - 1)
    _survey(*rows, position, chosen, float(target_sum), sums, row_values, marks)
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
    return int(_pick(*rows, position, out_values, out_columns, lengths, totals)), lengths, totals
