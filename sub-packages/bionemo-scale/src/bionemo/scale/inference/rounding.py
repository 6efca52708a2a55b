"""Round predicted expression to whole counts."""

import numba
import numpy as np
from scipy import sparse

STRATA = 4
"""Cells are rounded in so many groups of like library size, whose counts are steps of like height."""
_TABLE = 32
"""Counts up to this are looked up."""
_SLACK = 1e-6
"""By how much a value may fall short of a whole count that it stands for."""


class CountRounding:
    """`CountRounding` brings one population's log1p expression to what whole counts of its cells can show.

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

    def __call__(self, expression: np.ndarray, library: np.ndarray) -> sparse.csr_matrix:
        """Round the population's next cells, which come in random order.

        Parameters
        ----------
        expression
            log1p [cells, G], not negative.
        library
            Counts of each cell, [cells].

        Returns
        -------
        scipy.sparse.csr_matrix
            float32 [cells, G], log1p, every value on the grid of its cell.
        """
        unit = self._target_sum / np.maximum(library, 1)
        cells, genes = expression.shape
        rows = np.empty(cells + 1, dtype=np.int32)
        columns, values = np.empty(cells * genes, dtype=np.int32), np.empty(cells * genes, dtype=np.float32)
        _round(expression, unit, np.searchsorted(self._edges, library), self._passed, rows, columns, values)
        taken = rows[-1]
        return sparse.csr_matrix((values[:taken].copy(), columns[:taken].copy(), rows), shape=expression.shape)


def _compiled(function):
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable folder for the cache, as in a read-only container
        return numba.njit(nogil=True)(function)


@_compiled
def _round(expression, unit, stratum, passed, rows, columns, values):
    """Write what is not 0 of the rounded cells as CSR."""
    # Few counts of a cell are large: the logarithms of the others are worked out once.
    grid, reached, steepness = np.empty(_TABLE + 1), np.empty(_TABLE + 1), np.empty(_TABLE)
    # Unsigned indices spare the test for negative ones.
    place, one = np.uint64(0), np.uint64(1)
    rows[0] = 0
    for cell in range(expression.shape[0]):
        for count in range(_TABLE + 1):
            grid[count] = np.log1p(count * unit[cell])
            reached[count] = np.log1p(max(count - _SLACK, 0.0) * unit[cell])
        for count in range(_TABLE):
            steepness[count] = 1 / (grid[count + 1] - grid[count])
        sums = passed[stratum[cell]]
        for gene in range(np.uint64(expression.shape[1])):
            value = np.float64(expression[cell, gene])
            # The first counts are told apart without branches: which way a value goes cannot be foreseen.
            below = np.uint64(value >= reached[1]) + np.uint64(value >= reached[2]) + np.uint64(value >= reached[3])
            if value >= reached[4]:
                below = np.uint64(4)
                while below + one < _TABLE and value >= reached[below + one]:
                    below += one
            lower, upper, up = grid[below], grid[below + one], (value - grid[below]) * steepness[below]
            if value >= reached[_TABLE]:
                whole = np.floor(np.expm1(value) / unit[cell] + _SLACK)
                lower, upper = np.log1p(whole * unit[cell]), np.log1p((whole + 1) * unit[cell])
                up = (value - lower) / (upper - lower)
            reaching = sums[gene] + min(max(up, 0.0), 1.0)
            is_up = reaching >= 1
            sums[gene] = reaching - is_up
            rounded = upper if is_up else lower
            columns[place], values[place] = gene, rounded
            place += np.uint64(rounded > 0)
        rows[cell + 1] = place
