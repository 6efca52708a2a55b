"""Make stored rows dense, or copy them side by side, in loops that numba compiles.

Importing this module imports numba, which takes a second; a `CellStore` does so when the first cells are read.

A row is written in three steps, each a loop that the compiler turns into vector instructions but for the last: zeros,
the logarithms of the counts 0, 1, 2, ... up to the row's largest, and those spread to the row's columns. A row has a
hundred values and more but few distinct counts, so looking a logarithm up beats computing it. The row is in the
innermost cache by then: all of it costs little more than writing the zeros.
"""

import functools

import numpy as np

from bionemo.cellsets.store.compiled import compiled

TABLE = 64
"""Counts below this are looked up."""
_STRIDE = 16  # a loop of constant length, so that no remainder is left to scalar code
_LN2 = np.log(2.0)
_ONE = int(np.float64(1.0).view(np.int64))
_HALF_DOWN = _ONE - int(np.float64(0.5**0.5).view(np.int64))


# Division by zero as in NumPy: the check for it would keep loops from being vectorised.
_compiled = functools.partial(compiled, error_model="numpy")


@_compiled
def log1p(y):
    """Return log(1 + y), float64, for y >= 0, to 2 units in the last place; the same bits on every machine.

    With 1 + y = 2^e (1 + f) and 1 + f in [sqrt(1/2), sqrt(2)): e log(2) + 2 artanh(f / (2 + f)), the second term by
    its Taylor series, of which the first term left out is below 2^-60 of the first.
    """
    bits = np.float64(1.0 + y).view(np.int64)
    e = ((bits + _HALF_DOWN) >> 52) - 1023
    power, inverse = np.int64((1023 + e) << 52).view(np.float64), np.int64((1023 - e) << 52).view(np.float64)
    f = (y - (power - 1.0)) * inverse
    s = f / (2.0 + f)
    z = s * s
    series = 2 / 21
    series = series * z + 2 / 19
    series = series * z + 2 / 17
    series = series * z + 2 / 15
    series = series * z + 2 / 13
    series = series * z + 2 / 11
    series = series * z + 2 / 9
    series = series * z + 2 / 7
    series = series * z + 2 / 5
    series = series * z + 2 / 3
    return np.float64(e) * _LN2 + (f - s * (f - z * series))


@_compiled
def _put(line, at, value):
    # A line of two bytes an entry holds bfloat16: the upper half of float32, rounded to nearest, ties to even.
    if line.itemsize == 2:
        bits = np.float32(value).view(np.uint32)
        if value != value:
            line[at] = np.uint16(0x7FC0)
        else:
            line[at] = np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
    else:
        line[at] = value


@_compiled
def _largest(values):
    largest = values[0]
    for j in range(len(values)):
        if values[j] > largest:  # max() would widen the values, and take fewer at once
            largest = values[j]
    return np.int64(largest)


@_compiled
def densify_counts(rows, out, data, columns, row_pointers, n_genes, library_size, target_sum):
    """Fill rows of `out` with log1p(count * target_sum / library size); return -1, or a damaged row."""
    table = np.empty(TABLE, out.dtype)
    for i in range(rows.shape[0]):
        row, line = rows[i], out[i]
        line[:] = 0
        if row < 0:
            continue
        begin, end = np.int64(row_pointers[row]), np.int64(row_pointers[row + 1])
        # A damaged store must end in an error, not in a write outside the buffer.
        if begin < 0 or begin > end or end > data.shape[0]:
            return row
        if begin == end:
            continue
        if _largest(columns[begin:end]) >= n_genes or not 0 < library_size[row] < np.inf:
            return row
        scale = target_sum / np.float64(library_size[row])
        counts, places = data[begin:end], columns[begin:end]
        largest = _largest(counts)
        for start in range(0, min(largest + 1, TABLE), _STRIDE):
            for j in range(_STRIDE):
                _put(table, start + j, np.float32(log1p(np.float64(start + j) * scale)))
        if largest < TABLE:
            for j in range(end - begin):
                line[places[j]] = table[counts[j]]
        else:
            for j in range(end - begin):
                count = counts[j]
                if count < TABLE:
                    line[places[j]] = table[count]
                else:
                    _put(line, places[j], np.float32(log1p(np.float64(count) * scale)))
    return np.int64(-1)


@_compiled
def densify_values(rows, out, data, columns, row_pointers, n_genes):
    """Fill rows of `out` with the stored values; return -1, or a damaged row."""
    for i in range(rows.shape[0]):
        row, line = rows[i], out[i]
        line[:] = 0
        if row < 0:
            continue
        begin, end = np.int64(row_pointers[row]), np.int64(row_pointers[row + 1])
        if begin < 0 or begin > end or end > data.shape[0]:
            return row
        if begin < end and _largest(columns[begin:end]) >= n_genes:
            return row
        for j in range(begin, end):
            _put(line, columns[j], data[j])
    return np.int64(-1)


@_compiled
def lay_out(rows, pointers, scale, row_pointers, library_size, target_sum, n_values, n_genes):
    """Fill in where each row of batches, [K, N], begins when those of a batch lie side by side, and its scale.

    `scale` has no entries for stored log1p values. Return -1, or a damaged row.
    """
    for k in range(rows.shape[0]):
        pointers[k, 0] = 0
        for i in range(rows.shape[1]):
            row, length = rows[k, i], 0
            if row >= 0:
                begin, end = np.int64(row_pointers[row]), np.int64(row_pointers[row + 1])
                length = end - begin
                if begin < 0 or length < 0 or end > n_values or length > n_genes:
                    return row
            if scale.shape[1] > 0:
                scale[k, i] = 0.0
                if length > 0:
                    if not 0 < library_size[row] < np.inf:
                        return row
                    scale[k, i] = target_sum / np.float64(library_size[row])
            pointers[k, i + 1] = pointers[k, i] + length
    return np.int64(-1)


@_compiled
def _copy(values, out):
    for j in range(len(values)):  # assigning a slice takes three times as long: it minds overlaps and strides
        out[j] = values[j]


@_compiled
def _largest_of_row(columns, row_pointers, row):
    begin, end = np.int64(row_pointers[row]), np.int64(row_pointers[row + 1])
    return _largest(columns[begin:end]) if begin < end else np.int64(-1)


@_compiled
def gather(rows, first, out_data, out_columns, data, columns, row_pointers, n_genes):
    """Copy the values and columns of rows to where `first` says; return -1, or a damaged row."""
    i = 0
    while i < rows.shape[0]:
        row, at, stop = rows[i], first[i], i + 1
        # Rows that follow each other in the store are one copy; -1 and 0 do not, for -1 is no row.
        while row >= 0 and stop < rows.shape[0] and rows[stop] == rows[stop - 1] + 1:
            stop += 1
        if row >= 0:
            begin, end = np.int64(row_pointers[row]), np.int64(row_pointers[row + stop - i])
            n = end - begin
            if n > 0:
                if _largest(columns[begin:end]) >= n_genes:
                    while _largest_of_row(columns, row_pointers, row) < n_genes:
                        row += 1
                    return row
                _copy(data[begin:end], out_data[at : at + n])
                _copy(columns[begin:end], out_columns[at : at + n])
        i = stop
    return np.int64(-1)
