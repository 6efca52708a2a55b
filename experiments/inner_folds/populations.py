"""From a shift to cells: the model's way, and others."""

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse

from bionemo.perteval.populations.rounding import round_to_counts
from bionemo.scale.inference.rounding import CellMaker, CountGrid, CountRounding
from bionemo.scale.inference.starts import Draw, scale_to
from bionemo.scale.linear_start.apply import move_cells
from experiments.inner_folds.folds import Cells, Condition, Fold

Make = Callable[[Cells, Fold, Condition, np.ndarray, np.random.Generator], np.ndarray]
"""(screen, fold, condition, its shift [G], rng) -> as many cells as were observed, log1p [n, G]."""

ONE_GROUP = np.zeros(1)
"""Library sizes that make one group of all cells."""


def started(*, scaled: bool = True, rounding: str = "systematic") -> Make:
    """Control cells moved by the shift.

    Parameters
    ----------
    scaled
        Whether the drawn cells are scaled to the mean of all control cells first.
    rounding
        ``systematic`` as the model does it, ``one group`` without its groups of like library size, ``one by one``, or
        ``none``.
    """

    def make(cells: Cells, fold: Fold, condition: Condition, delta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        context, _ = condition
        pool = cells.rows[context, cells.control]
        rows = Draw(pool, rng).first(len(cells.rows[condition]))
        control = cells.expression[rows].toarray()
        if scaled:
            control = control * scale_to(np.asarray(cells.expression[pool].mean(0)).ravel(), cells.expression[rows])
        moved = _moved(control, delta, cells.control_mean(context), cells.target_sum)
        return _rounded(moved, cells.library[rows], cells.target_sum, rounding, rng)

    return make


def perturbed_elsewhere(
    cells: Cells, fold: Fold, condition: Condition, delta: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Cells of that perturbation in other contexts, whose spread and zeros are real, moved to the predicted mean."""
    pools = [cells.rows[other] for other in fold.train if other[1] == condition[1]]
    chosen = rng.integers(len(pools), size=len(cells.rows[condition]))
    rows = np.array([rng.choice(pools[pool]) for pool in chosen])
    there = cells.expression[rows].toarray().astype(np.float64)
    mean = there.mean(0)
    wanted = np.maximum(cells.control_mean(condition[0]) + delta, 0)
    moved = _moved(there, wanted - mean, mean, cells.target_sum)
    return _rounded(moved, cells.library[rows], cells.target_sum, "systematic", rng)


def tiled(cells: Cells, fold: Fold, condition: Condition, delta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The predicted mean as every cell: what correlations are without a population."""
    mean = np.maximum(cells.control_mean(condition[0]) + delta, 0).astype(np.float32)
    return np.broadcast_to(mean, (len(cells.rows[condition]), len(mean)))


POPULATIONS: dict[str, Make] = {
    "cells drawn, rounded one by one": started(scaled=False, rounding="one by one"),
    "scaled to the mean of all controls": started(rounding="one by one"),
    "and rounded systematically (one group)": started(rounding="one group"),
    "in four groups (the default)": started(),
    "not rounded at all": started(rounding="none"),
    "cells of the perturbation elsewhere": perturbed_elsewhere,
    "the mean, tiled": tiled,
}
"""Ways to a population of one and the same shift."""


def _moved(control: np.ndarray, delta: np.ndarray, mean: np.ndarray, target_sum: float) -> np.ndarray:
    x0_BSG, delta_BG, mean_BG = (
        torch.from_numpy(np.asarray(part[None], dtype=float)) for part in (control, delta, mean)
    )
    return move_cells(x0_BSG, delta_BG, mean_BG)[0].clamp(max=float(np.log1p(target_sum))).numpy()


def _rounded(
    values: np.ndarray, library: np.ndarray, target_sum: float, how: str, rng: np.random.Generator
) -> np.ndarray:
    if how == "none":
        return values
    if how == "one by one":
        return round_to_counts(values, library, target_sum, rng)
    chance = CountRounding(values.shape[1], ONE_GROUP if how == "one group" else library, rng)
    nothing, zeros = sparse.csr_matrix(values.shape, dtype=np.float32), np.zeros(values.shape[1], np.float32)
    make, grid = CellMaker(values.shape[1], np.inf), CountGrid(library, target_sum)
    rounded = make(len(values), nothing, zeros, zeros, values.astype(np.float32), 1.0, grid, chance)
    assert rounded is not None
    return rounded.toarray()
