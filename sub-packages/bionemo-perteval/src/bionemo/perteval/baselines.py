"""What a prediction has to beat, and what it cannot: baselines and the split-half ceiling, each a population of cells.

A baseline is drawn from what a model could have seen: the control cells of the scored context and the training
conditions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from bionemo.perteval.screen import Screen, generator

Draw = Callable[[Screen, str, str, np.random.Generator], sp.csr_matrix]
"""(screen, context, perturbation, rng) -> as many cells as observed, log1p float32 [n, G]."""

PREDICTION = "prediction"
CONTROL_CELLS = "control cells"
TRANSFERRED_DELTA = "control cells + transferred delta"
ZERO_PRESERVING = "control cells + transferred delta, zero-preserving"
PERTURBATION_MEAN = "perturbation mean"
SPLIT_HALVES = "split halves"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A population that needs no model.

    Attributes
    ----------
    name
        Row of the tables.
    definition
        One sentence for the report.
    draw
        Draws the cells of one condition.
    needs_training, needs_counts
        Without training conditions, or without counts, the baseline does not exist.
    """

    name: str
    definition: str
    draw: Draw
    needs_training: bool = False
    needs_counts: bool = False

    def exists_for(self, screen: Screen) -> bool:
        """Say whether the screen has what the baseline is made from."""
        if self.needs_training and not screen.training:
            return False
        return screen.library is not None or not self.needs_counts


def transferred_delta(screen: Screen, perturbation: str) -> np.ndarray:
    """Return the mean over training contexts of the perturbation's delta, log1p [G].

    A perturbation that no training context has gets the mean delta: over the perturbations of a training context, then
    over contexts.
    """
    having = [context for context, name in screen.training if name == perturbation]
    if having:
        return np.mean([screen.delta(context, perturbation) for context in having], axis=0)
    return _mean_over_contexts(screen, screen.delta)


def perturbation_mean(screen: Screen, perturbation: str) -> np.ndarray:
    """Return the mean over training contexts of the perturbation's mean cell, log1p [G]; else of all perturbations."""
    having = [context for context, name in screen.training if name == perturbation]
    if having:
        return np.mean([screen.means[context, perturbation] for context in having], axis=0)
    return _mean_over_contexts(screen, lambda context, name: screen.means[context, name])


def untrained(screen: Screen) -> list[str]:
    """Return the scored perturbations that no training context has."""
    trained = {perturbation for _, perturbation in screen.training}
    return sorted({perturbation for _, perturbation in screen.predicted} - trained)


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


def split_halves(screen: Screen, context: str, perturbation: str, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split the observed cells of a condition at random into two halves of equal size, log1p [n // 2, G] each."""
    rows = screen.rows[context, perturbation]
    order = generator(seed, SPLIT_HALVES, context, perturbation).permutation(rows)
    half = rows.size // 2
    return screen.observed[np.sort(order[:half])], screen.observed[np.sort(order[half : 2 * half])]


def _mean_over_contexts(screen: Screen, value: Callable[[str, str], np.ndarray]) -> np.ndarray:
    by_context: dict[str, list[np.ndarray]] = {}
    for context, perturbation in screen.training:
        by_context.setdefault(context, []).append(value(context, perturbation))
    return np.mean([np.mean(values, axis=0) for values in by_context.values()], axis=0)


def _draw_controls(screen: Screen, context: str, perturbation: str, rng: np.random.Generator) -> np.ndarray:
    """Draw rows of control cells with replacement: drawing all without would give back the controls themselves."""
    return rng.choice(screen.rows[context, screen.control], screen.rows[context, perturbation].size)


def _control_cells(screen: Screen, context: str, perturbation: str, rng: np.random.Generator) -> sp.csr_matrix:
    return screen.observed[_draw_controls(screen, context, perturbation, rng)]


def _shifted(screen: Screen, rows: np.ndarray, perturbation: str) -> np.ndarray:
    return np.maximum(screen.observed[rows].toarray() + transferred_delta(screen, perturbation), 0.0)


def _transferred(screen: Screen, context: str, perturbation: str, rng: np.random.Generator) -> sp.csr_matrix:
    rows = _draw_controls(screen, context, perturbation, rng)
    return sp.csr_matrix(_shifted(screen, rows, perturbation), dtype=np.float32)


def _zero_preserving(screen: Screen, context: str, perturbation: str, rng: np.random.Generator) -> sp.csr_matrix:
    assert screen.library is not None
    assert screen.target_sum is not None
    rows = _draw_controls(screen, context, perturbation, rng)
    shifted = _shifted(screen, rows, perturbation)
    return sp.csr_matrix(round_to_counts(shifted, screen.library[rows], screen.target_sum, rng), dtype=np.float32)


def _tiled_mean(screen: Screen, context: str, perturbation: str, rng: np.random.Generator) -> sp.csr_matrix:
    mean = perturbation_mean(screen, perturbation)
    return sp.csr_matrix(np.tile(mean, (screen.rows[context, perturbation].size, 1)), dtype=np.float32)


BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(
            name=CONTROL_CELLS,
            definition="Control cells of the same context, drawn with replacement: the perturbation does nothing.",
            draw=_control_cells,
        ),
        Baseline(
            name=PERTURBATION_MEAN,
            definition="Every cell is the mean cell of that perturbation over the training contexts.",
            draw=_tiled_mean,
            needs_training=True,
        ),
        Baseline(
            name=TRANSFERRED_DELTA,
            definition="Control cells of the context plus the mean shift of that perturbation over the training "
            "contexts, clipped at 0: the baseline to beat.",
            draw=_transferred,
            needs_training=True,
        ),
        Baseline(
            name=ZERO_PRESERVING,
            definition="The same, each value then rounded at random to what whole counts of that cell can show: the "
            "mean stays, the zeros come back.",
            draw=_zero_preserving,
            needs_training=True,
            needs_counts=True,
        ),
    )
}
"""Every baseline by name, in the order of the tables."""
