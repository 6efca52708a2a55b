"""Round shifted cells to what whole counts can show, so that zeros come back."""

import numpy as np


def round_to_counts(values: np.ndarray, library: np.ndarray, target_sum: float, rng: np.random.Generator) -> np.ndarray:
    """Round each cell stochastically to the log1p values that whole counts of that cell can have.

    A cell with `library` counts can only show the values ``g_k = log1p(k * target_sum / library)``. A value between g_k
    and g_(k+1) becomes g_(k+1) with probability ``(value - g_k) / (g_(k+1) - g_k)``, else g_k: its expectation is
    unchanged, and zeros come back.

    Parameters
    ----------
    values
        log1p, not negative [n, G].
    library
        Counts of each cell [n].
    target_sum
        Counts per cell that were normalised to.
    rng
        Source of the draws.

    Returns
    -------
    np.ndarray
        log1p [n, G].
    """
    step = (target_sum / np.maximum(library, 1.0))[:, None]
    lower = np.floor(np.expm1(values) / step)
    below, above = np.log1p(lower * step), np.log1p((lower + 1) * step)
    return np.where(rng.random(values.shape) * (above - below) < values - below, above, below)
