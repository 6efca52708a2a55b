"""Predicted expression to whole counts."""

import numpy as np

STRATA = 4
"""Cells are rounded in so many groups of like library size, whose counts are steps of like height."""


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
        unit = (self._target_sum / np.maximum(library, 1))[:, None]
        below = np.floor(np.expm1(expression.astype(np.float64)) / unit + 1e-6)
        lower, upper = np.log1p(below * unit), np.log1p((below + 1) * unit)
        share = ((expression - lower) / (upper - lower)).clip(0, 1)
        up = np.empty(share.shape, dtype=bool)
        stratum = np.searchsorted(self._edges, library)
        for group in np.unique(stratum):
            cells = stratum == group
            sums = np.cumsum(np.concatenate([self._passed[group, None], share[cells]]), axis=0)
            self._passed[group] = sums[-1] % 1
            up[cells] = np.diff(np.floor(sums), axis=0) > 0
        return np.where(up, upper, lower).astype(np.float32)
