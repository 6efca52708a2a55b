"""Round shifted cells to what whole counts can show, so that zeros come back."""

import numpy as np


def round_to_counts(values: np.ndarray, library: np.ndarray, target_sum: float, rng: np.random.Generator) -> np.ndarray:
    """Round log1p values, not negative [n, G], at random to those that whole counts of each cell can have [n, G].

    A cell with `library` counts can only show the values ``g_k = log1p(k * target_sum / library)``. A value between g_k
    and g_(k+1) becomes g_(k+1) with probability ``(value - g_k) / (g_(k+1) - g_k)``, else g_k: its expectation is
    unchanged, and zeros come back. `library` is of each cell [n], `target_sum` the counts per cell that were normalised
    to.
    """
    step = (target_sum / np.maximum(library, 1.0))[:, None]
    lower = np.floor(np.expm1(values) / step)
    below, above = np.log1p(lower * step), np.log1p((lower + 1) * step)
    return np.where(rng.random(values.shape) * (above - below) < values - below, above, below)
