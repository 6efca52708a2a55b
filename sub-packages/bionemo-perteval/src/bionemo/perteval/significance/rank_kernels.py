"""The kernels of the tests take what a test needs of a gene from its non-zero values alone; numba compiles them.

Most values are zeros, and zeros are the lowest value, so they are one group of ties that needs no sorting. Control
cells are sorted once a gene; each perturbed value then finds its place among them by galloping. Long genes are
sorted by radix, so that the time of a test grows with the number of cells and not faster.
"""

import numpy as np

_RADIX_FROM = 40
"""Values from which on sorting by radix is faster than by comparison."""


def sort_genes(values: np.ndarray, starts: np.ndarray) -> None:
    """Sort the values of every gene, in place.

    Parameters
    ----------
    values
        Values by gene, float32, none below zero.
    starts
        Gene g has ``values[starts[g]:starts[g + 1]]`` [G + 1].
    """
    longest = 0
    for gene in range(starts.size - 1):
        longest = max(longest, starts[gene + 1] - starts[gene])
    scratch = np.empty(longest, dtype=np.uint32)
    counts = np.empty((4, 256), dtype=np.int64)
    for gene in range(starts.size - 1):
        own = values[starts[gene] : starts[gene + 1]]
        ordered = True
        for i in range(1, own.size):
            if own[i] < own[i - 1]:
                ordered = False
                break
        if ordered:
            continue
        if own.size < _RADIX_FROM:
            own.sort()
            continue
        # The bits of floats that are not negative are in the order of the floats: sort them byte by byte.
        bits = own.view(np.uint32)
        other = scratch[: bits.size]
        counts[:] = 0
        for i in range(bits.size):
            key = bits[i] & np.uint32(0x7FFFFFFF)  # minus zero is zero
            bits[i] = key
            for byte in range(4):
                counts[byte, (key >> np.uint32(8 * byte)) & np.uint32(255)] += 1
        swapped = False
        for byte in range(4):
            shift = np.uint32(8 * byte)
            if counts[byte, (bits[0] >> shift) & np.uint32(255)] == bits.size:
                continue  # all have it in common
            place = 0
            for bucket in range(256):
                size = counts[byte, bucket]
                counts[byte, bucket] = place
                place += size
            for i in range(bits.size):
                key = bits[i]
                bucket = (key >> shift) & np.uint32(255)
                other[counts[byte, bucket]] = key
                counts[byte, bucket] += 1
            bits, other = other, bits
            swapped = not swapped
        if swapped:
            other[:] = bits


def rank_genes(
    values: np.ndarray,
    starts: np.ndarray,
    cells: int,
    controls: np.ndarray,
    control_starts: np.ndarray,
    control_cells: int,
    control_ties: np.ndarray,
    statistic: np.ndarray,
    ties: np.ndarray,
    moments: np.ndarray,
) -> None:
    """Rank the cells of one group against the control cells, gene by gene.

    Parameters
    ----------
    values
        Values of the group by gene, float32, explicit zeros allowed; sorted.
    starts
        Gene g has ``values[starts[g]:starts[g + 1]]`` [G + 1].
    cells
        Cells of the group; what is not in `values` is zero.
    controls
        Non-zero values of the control cells by gene, sorted; empty to take the moments of `values` alone.
    control_starts, control_cells
        Starts and number of the control cells, as for the group.
    control_ties
        Sum of ``c**3 - c`` over the groups of c equal non-zero control values [G].
    statistic
        Receives U of the group: pairs in which it is larger, equal pairs counted half [G].
    ties
        Receives the sum of ``t**3 - t`` over the groups of t equal values among all cells [G].
    moments
        Receives sum, sum of squares and number of non-zero values of the group [3, G].
    """
    for gene in range(starts.size - 1):
        own = values[starts[gene] : starts[gene + 1]]
        first = 0
        while first < own.size and own[first] == 0:
            first += 1
        total = 0.0
        squares = 0.0
        for i in range(first, own.size):
            value = np.float64(own[i])
            total += value
            squares += value * value
        moments[0, gene] = total
        moments[1, gene] = squares
        moments[2, gene] = own.size - first

        other = controls[control_starts[gene] : control_starts[gene + 1]]
        zeros = np.float64(cells - (own.size - first))
        control_zeros = np.float64(control_cells - other.size)
        u = zeros * control_zeros / 2
        both = zeros + control_zeros
        tied = both * both * both - both + control_ties[gene]
        place = 0
        i = first
        while i < own.size:
            value = own[i]
            end = i + 1
            while end < own.size and own[end] == value:
                end += 1
            # Gallop to the first control value that is not below, then bisect.
            step = 1
            high = place
            while high < other.size and other[high] < value:
                place = high + 1
                high += step
                step *= 2
            high = min(high, other.size)
            while place < high:
                middle = (place + high) // 2
                if other[middle] < value:
                    place = middle + 1
                else:
                    high = middle
            equal = place
            while equal < other.size and other[equal] == value:
                equal += 1
            here = np.float64(end - i)
            there = np.float64(equal - place)
            u += here * (control_zeros + place + there / 2)
            both = here + there
            tied += (both * both * both - both) - (there * there * there - there)
            i = end
        statistic[gene] = u
        ties[gene] = tied
