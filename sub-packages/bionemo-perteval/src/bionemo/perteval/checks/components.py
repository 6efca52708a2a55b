"""Project cells on the principal components of the real ones, for the picture of a condition."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bionemo.perteval.inputs.screen import Population, Screen, cell_count
from bionemo.screens.labels import Condition

_MOST_CELLS = 400


@dataclass(frozen=True, kw_only=True)
class Components:
    """`Components` place the cells of one condition on two principal components of its control and observed cells."""

    condition: Condition
    explained: tuple[float, float]
    """Share of the variance on each of the two axes."""
    control: np.ndarray
    observed: np.ndarray
    """These and the control cells: coordinates [n, 2]."""
    predicted: Mapping[str, np.ndarray]
    """Prediction -> coordinates [n, 2]."""


def project(screen: Screen, condition: Condition) -> Components:
    """Fit the components on the real cells of a condition, up to 400 a group, and project all groups on them."""
    control, observed = (_some(cells) for cells in (screen.control_cells(condition[0]), screen.cells(*condition)))
    real = np.concatenate([control, observed])
    centre = real.mean(axis=0)
    _, singular, axes = np.linalg.svd(real - centre, full_matrices=False)
    axes = axes[:2] if axes.shape[0] > 1 else np.vstack([axes, np.zeros_like(axes)])
    total = max(float((singular**2).sum()), np.finfo(float).tiny)
    explained = [*(float(value**2) / total for value in singular[:2]), 0.0]
    return Components(
        condition=condition,
        explained=(explained[0], explained[1]),
        control=(control - centre) @ axes.T,
        observed=(observed - centre) @ axes.T,
        predicted={name: (_some(seeds[0][condition]) - centre) @ axes.T for name, seeds in screen.predictions.items()},
    )


def _some(cells: Population) -> np.ndarray:
    rows = np.sort(np.random.default_rng(0).permutation(cell_count(cells))[:_MOST_CELLS])
    chosen = cells[rows]
    return (chosen if isinstance(chosen, np.ndarray) else chosen.toarray()).astype(np.float64)
