"""Predicted expression to whole counts."""

import numba
import numpy as np

STRATA = 4
"""Cells are rounded in so many groups of like library size, whose counts are steps of like height."""
_TABLE = 32
"""Counts up to this are looked up."""
_SLACK = 1e-6
"""By how much a value may fall short of a whole count that it stands for."""


class CountRounding:
    """Systematic rounding of one population's log1p expression to what whole counts of its cells can show.

    A cell of library size L can show ``log1p(k * target_sum / L)`` for whole k. A value between two neighbours of that
    grid becomes one of them, the upper with the probability p that leaves its expectation as it was: small values
    become zeros and ones again, and the mean is kept in log1p space, where populations are compared.

    The cells of a gene do not draw apart: with u one uniform number, cell i of a group is rounded up where the running
    sum ``u + p_1 + ... + p_i`` passes a whole number (systematic sampling). As many cells are rounded up as the sum of
    their probabilities asks for, to within one, where separate draws would add their noise to the mean of every gene.

    Parameters
    ----------
    genes
        Number of genes.
    library
        Counts of each cell of the whole population, [cells].
    target_sum
        What library sizes were normalised to.
    rng
        Where the chance comes from.
    """

    def __init__(self, genes: int, library: np.ndarray, target_sum: float, rng: np.random.Generator):
        self._target_sum = target_sum
        self._edges = np.quantile(library, np.arange(1, STRATA) / STRATA)
        self._passed = rng.random((STRATA, genes))

    def __call__(self, expression: np.ndarray, library: np.ndarray) -> np.ndarray:
        """Round the population's next cells, which come in random order.

        Parameters
        ----------
        expression
            log1p [cells, G], not negative.
        library
            Counts of each cell, [cells].

        Returns
        -------
        numpy.ndarray
            float32 [cells, G], log1p, every value on the grid of its cell.
        """
        unit = self._target_sum / np.maximum(library, 1)
        return _rounded(expression, unit, np.searchsorted(self._edges, library), self._passed)


def _compiled(function):
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable folder for the cache, as in a read-only container
        return numba.njit(nogil=True)(function)


@_compiled
def _rounded(expression, unit, stratum, passed):
    out = np.empty(expression.shape, dtype=np.float32)
    grid, reached = np.empty(_TABLE + 1), np.empty(_TABLE + 1)
    for cell in range(expression.shape[0]):
        # Few counts of a cell are large: the logarithms of the others are worked out once.
        for count in range(_TABLE + 1):
            grid[count] = np.log1p(count * unit[cell])
            reached[count] = np.log1p(max(count - _SLACK, 0.0) * unit[cell])
        sums = passed[stratum[cell]]
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
            sums[gene] += min(max((value - lower) / (upper - lower), 0.0), 1.0)
            if sums[gene] >= 1:
                sums[gene] -= 1
                out[cell, gene] = upper
            else:
                out[cell, gene] = lower
    return out
