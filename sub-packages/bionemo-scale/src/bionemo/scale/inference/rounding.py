"""Predicted expression to whole counts."""

import numba
import numpy as np

_TABLE = 32
"""Counts up to this are looked up."""
_SLACK = 1e-6
"""By how much a value may fall short of a whole count that it stands for."""


def round_to_counts(
    expression: np.ndarray, library: np.ndarray, target_sum: float, rng: np.random.Generator
) -> np.ndarray:
    """Stochastic rounding of log1p expression to what a cell of that library size can show.

    A cell of library size L can show ``log1p(k * target_sum / L)`` for whole k. A value between two neighbours of
    that grid becomes one of them, the upper with the probability that leaves its expectation as it was. So the mean
    over cells is kept, in log1p space, where populations are compared, and small values become zeros and ones again.

    Parameters
    ----------
    expression
        log1p [cells, G], not negative.
    library
        Counts of each cell, [cells].
    target_sum
        What library sizes were normalised to.
    rng
        Where the chance comes from.

    Returns
    -------
    numpy.ndarray
        float32 [cells, G], log1p, every value on the grid of its cell.
    """
    unit = target_sum / np.maximum(library, 1)
    return _rounded(expression, unit, rng.random(expression.shape))


def _compiled(function):
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable folder for the cache, as in a read-only container
        return numba.njit(nogil=True)(function)


@_compiled
def _rounded(expression, unit, chance):
    out = np.empty(expression.shape, dtype=np.float32)
    grid, reached = np.empty(_TABLE + 1), np.empty(_TABLE + 1)
    for cell in range(expression.shape[0]):
        # Few counts of a cell are large: the logarithms of the others are worked out once.
        for count in range(_TABLE + 1):
            grid[count] = np.log1p(count * unit[cell])
            reached[count] = np.log1p(max(count - _SLACK, 0.0) * unit[cell])
        for gene in range(expression.shape[1]):
            value = np.float64(expression[cell, gene])
            if value < reached[_TABLE]:
                below = 0
                while below + 1 < _TABLE and value >= reached[below + 1]:
                    below += 1
                lower, upper = grid[below], grid[below + 1]
            else:
                whole = np.floor(np.expm1(value) / unit[cell] + _SLACK)
                lower, upper = np.log1p(whole * unit[cell]), np.log1p((whole + 1) * unit[cell])
            share = (value - lower) / (upper - lower)
            out[cell, gene] = upper if chance[cell, gene] < share else lower
    return out
