"""Split the observed cells in halves: no prediction can be expected to be nearer than one half is to the other."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy import stats

from bionemo.perteval.inputs.screen import Screen, cell_count, generator

SPLIT_HALVES = "split halves"

INTERPOLATED = "interpolated duplicate"
"""The positive control of Miller et al. 2026: one half, drawn towards the mean where it has no effect of its own."""

SPLIT_REPEATS = 6
"""How many times the observed cells are split; the three rotations of the control cells have equal shares in them."""

INTERPOLATED_REPEATS = 3
"""How many times they are split for the interpolated duplicate: once for each rotation."""


def split_halves(screen: Screen, context: str, perturbation: str, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split the observed cells of a condition at random into two halves of equal size, log1p [n // 2, G] each."""
    rows = screen.rows[context, perturbation]
    order = generator(seed, SPLIT_HALVES, context, perturbation).permutation(rows)
    half = rows.size // 2
    return screen.observed[np.sort(order[:half])], screen.observed[np.sort(order[half : 2 * half])]


@dataclass(frozen=True)
class Sums:
    """`Sums` hold the number of cells, and the sums of their log1p values and of the squares of those [G]."""

    cells: int
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, cells: sp.csr_matrix) -> "Sums":
        """Sum over cells, log1p [n, G]."""
        genes = cells.shape[1]  # type: ignore[index]
        first = np.bincount(cells.indices, weights=cells.data, minlength=genes)
        second = np.bincount(cells.indices, weights=np.square(cells.data, dtype=np.float64), minlength=genes)
        return cls(cell_count(cells), first, second)

    @classmethod
    def of_perturbed(cls, screen: Screen, context: str) -> "Sums":
        """Sum over all perturbed cells of a context, one perturbation in memory at a time."""
        total = cls(0, np.zeros(screen.genes.size), np.zeros(screen.genes.size))
        for of, perturbation in screen.rows:
            if of == context and perturbation != screen.control:
                total = total + cls.of(screen.cells(context, perturbation))
        return total

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.cells + other.cells, self.first + other.first, self.second + other.second)

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.cells - other.cells, self.first - other.first, self.second - other.second)

    @property
    def mean(self) -> np.ndarray:
        """Mean over cells [G]."""
        return self.first / self.cells

    @property
    def variance(self) -> np.ndarray:
        """Sample variance over cells [G]."""
        return np.maximum(self.second - self.cells * self.mean**2, 0.0) / (self.cells - 1)


def interpolated_duplicate(
    screen: Screen, context: str, perturbation: str, seed: int, perturbed: Sums
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return one half of the cells with interpolated means, and the other half, log1p [n // 2, G] each.

    A gene's mean becomes ``a * half + (1 - a) * others``: others is the mean of all other perturbed cells of the
    context, a is one less the Benjamini-Hochberg rate of Welch's test of the half against them, whose number of cells
    counts as that of the half (Miller et al., Nature Biotechnology 2026). They interpolate means alone; here every cell
    of the half is scaled gene by gene to that mean, so that it stays a population with its zeros.

    The halves are those of `split_halves`; `perturbed` are the sums over all perturbed cells of the context.
    """
    duplicate, truth = split_halves(screen, context, perturbation, seed)
    half, others = Sums.of(duplicate), perturbed - Sums.of(screen.cells(context, perturbation))
    if half.cells < 2 or others.cells < 2:
        return duplicate, truth
    error = (half.variance + others.variance) / half.cells
    freedom = (half.cells - 1) * np.divide(
        (half.variance + others.variance) ** 2,
        half.variance**2 + others.variance**2,
        out=np.ones_like(error),
        where=error > 0,
    )
    t = np.divide(np.abs(half.mean - others.mean), np.sqrt(error), out=np.zeros_like(error), where=error > 0)
    rate = stats.false_discovery_control(2 * stats.t.sf(t, freedom))
    wanted = (1 - rate) * half.mean + rate * others.mean
    scale = np.divide(wanted, half.mean, out=np.ones_like(wanted), where=half.mean > 0)
    data = (duplicate.data * scale[duplicate.indices]).astype(np.float32)
    return sp.csr_matrix((data, duplicate.indices, duplicate.indptr), shape=duplicate.shape), truth


def spearman_brown(correlation: np.ndarray) -> np.ndarray:
    """Return the correlation that two samples of the full size would have, from that of two halves.

    ``2 r / (1 + r)`` (Spearman 1910, Brown 1910): it assumes two halves with equal and independent errors, so it means
    something for a correlation of two noisy measurements of one shift and nothing for an overlap or a rank. A
    correlation that is not positive stays what it is.
    """
    return np.where(correlation > 0, 2 * correlation / (1 + np.maximum(correlation, 0.0)), correlation)
