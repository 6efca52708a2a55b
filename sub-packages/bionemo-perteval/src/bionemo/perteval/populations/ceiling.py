"""Split the observed cells in halves: no prediction can be expected to be nearer than one half is to the other."""

import numpy as np
import scipy.sparse as sp

from bionemo.perteval.inputs.screen import Screen, generator

SPLIT_HALVES = "split halves"

SPLIT_REPEATS = 6
"""How many times the observed cells are split; the three rotations of the control cells have equal shares in them."""


def split_halves(screen: Screen, context: str, perturbation: str, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split the observed cells of a condition at random into two halves of equal size, log1p [n // 2, G] each."""
    rows = screen.rows[context, perturbation]
    order = generator(seed, SPLIT_HALVES, context, perturbation).permutation(rows)
    half = rows.size // 2
    return screen.observed[np.sort(order[:half])], screen.observed[np.sort(order[half : 2 * half])]


def spearman_brown(correlation: np.ndarray) -> np.ndarray:
    """Return the correlation that two samples of the full size would have, from that of two halves.

    ``2 r / (1 + r)`` (Spearman 1910, Brown 1910): it assumes two halves with equal and independent errors, so it means
    something for a correlation of two noisy measurements of one shift and nothing for an overlap or a rank. A
    correlation that is not positive stays what it is.
    """
    return np.where(correlation > 0, 2 * correlation / (1 + np.maximum(correlation, 0.0)), correlation)
