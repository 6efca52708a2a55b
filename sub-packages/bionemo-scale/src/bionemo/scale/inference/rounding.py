"""Predicted expression to whole counts."""

import numpy as np


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
    unit = (target_sum / np.maximum(library, 1))[:, None]
    below = np.floor(np.expm1(expression.astype(np.float64)) / unit + 1e-6)
    lower, upper = np.log1p(below * unit), np.log1p((below + 1) * unit)
    share = (expression - lower) / (upper - lower)
    return np.where(rng.random(expression.shape) < share, upper, lower).astype(np.float32)
