"""What the pictures of the report are drawn from: shifts, zeros, variances and principal components of populations."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bionemo.perteval.differential import Tested
from bionemo.perteval.screen import Population, Screen, cell_count, mean_cell

MOST_SHIFTS = 12
"""Shift pictures in a report."""

_CELLS_PER_CLOUD = 400


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Predicted and observed delta of one condition, log1p [G] each."""

    context: str
    perturbation: str
    predicted: np.ndarray
    observed: np.ndarray
    correlation: float


@dataclass(frozen=True, kw_only=True)
class Clouds:
    """Cells of one condition on the first two principal components of its control and observed cells.

    Attributes
    ----------
    context, perturbation
        The condition.
    explained
        Share of the variance on each of the two axes.
    points
        ``"control"``, ``"observed"``, ``"predicted"`` -> coordinates [n, 2].
    """

    context: str
    perturbation: str
    explained: tuple[float, float]
    points: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """Summaries of the populations.

    Attributes
    ----------
    genes
        Names [G].
    zeros, variances
        Arm (and ``"observed"``) -> per gene the fraction of zeros and the variance of log1p values inside a population,
        mean over perturbations, then over contexts [G].
    shifts
        The conditions with most observed DE genes, up to `MOST_SHIFTS`.
    clouds
        The strongest condition of the context with most observed cells.
    """

    genes: np.ndarray
    zeros: dict[str, np.ndarray]
    variances: dict[str, np.ndarray]
    shifts: tuple[Shift, ...]
    clouds: Clouds

    def fraction_of_zeros(self, arm: str) -> float:
        """Return the mean over genes of the fraction of zeros."""
        return float(self.zeros[arm].mean())

    def mean_variance(self, arm: str) -> float:
        """Return the mean over genes of the variance."""
        return float(self.variances[arm].mean())


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One population gene by gene, as the pictures need it.

    Attributes
    ----------
    zeros, variance
        Fraction of zeros and variance of log1p values [G].
    """

    zeros: np.ndarray
    variance: np.ndarray


def summarise(cells: Population, tested: Tested) -> Summary:
    """Return what is kept of a population after it was tested.

    Parameters
    ----------
    cells
        log1p [n, G].
    tested
        Their test.
    """
    return Summary(zeros=tested.moments.zeros, variance=tested.moments.variance)


class Summaries:
    """Collects the populations as they are scored, keeping one summary per gene, arm and context.

    Parameters
    ----------
    genes
        Names [G].
    """

    def __init__(self, genes: np.ndarray):
        self._genes = genes
        self._zeros: dict[str, dict[str, np.ndarray]] = {}
        self._variances: dict[str, dict[str, np.ndarray]] = {}

    def add(self, arm: str, context: str, summaries: list[Summary]) -> None:
        """Add the populations of an arm (or of ``"observed"``) in a context, one a scored perturbation."""
        self._zeros.setdefault(arm, {})[context] = np.mean([summary.zeros for summary in summaries], axis=0)
        self._variances.setdefault(arm, {})[context] = np.mean([summary.variance for summary in summaries], axis=0)

    def profiles(self, screen: Screen, scores: pd.DataFrame) -> Profiles:
        """Return the summaries.

        Parameters
        ----------
        screen
            The cells.
        scores
            `Evaluation.per_perturbation`: its numbers of DE genes choose the conditions that are shown.
        """
        first = next(iter(screen.predictions))
        mine = pd.DataFrame(scores[scores["arm"] == first]).sort_values("n_de_observed", ascending=False, kind="stable")
        order = list(zip(mine["context"], mine["perturbation"], strict=True))
        observed = {name: sum(screen.rows[name, label].size for label in screen.scored[name]) for name in screen.scored}
        largest = max(observed, key=lambda name: observed[name])
        strongest = next(condition for condition in order if condition[0] == largest)
        return Profiles(
            genes=self._genes,
            zeros={arm: np.mean(list(values.values()), axis=0) for arm, values in self._zeros.items()},
            variances={arm: np.mean(list(values.values()), axis=0) for arm, values in self._variances.items()},
            shifts=tuple(_shift(screen, first, *condition) for condition in order[:MOST_SHIFTS]),
            clouds=_clouds(screen, first, *strongest),
        )


def _shift(screen: Screen, arm: str, context: str, perturbation: str) -> Shift:
    predicted = mean_cell(screen.predictions[arm][0][context, perturbation]) - screen.mean(context, screen.control)
    observed = screen.delta(context, perturbation)
    varies = min(np.ptp(predicted), np.ptp(observed)) > 0
    correlation = float(np.corrcoef(predicted, observed)[0, 1]) if varies else float("nan")
    return Shift(
        context=context, perturbation=perturbation, predicted=predicted, observed=observed, correlation=correlation
    )


def _clouds(screen: Screen, arm: str, context: str, perturbation: str) -> Clouds:
    """Fit the components on the real cells and project all three groups."""
    groups = {
        "control": screen.control_cells(context),
        "observed": screen.cells(context, perturbation),
        "predicted": screen.predictions[arm][0][context, perturbation],
    }
    dense = {}
    for name, cells in groups.items():
        rng = np.random.default_rng(0)
        shown = np.sort(rng.permutation(cell_count(cells))[:_CELLS_PER_CLOUD])
        dense[name] = cells[shown].toarray().astype(np.float64)
    real = np.concatenate([dense["control"], dense["observed"]])
    centre = real.mean(axis=0)
    _, singular, axes = np.linalg.svd(real - centre, full_matrices=False)
    total = max(float((singular**2).sum()), np.finfo(float).tiny)
    axes = axes[:2] if axes.shape[0] > 1 else np.vstack([axes, np.zeros_like(axes)])
    explained = [float(value**2) / total for value in singular[:2]] + [0.0]
    return Clouds(
        context=context,
        perturbation=perturbation,
        explained=(float(explained[0]), float(explained[1])),
        points={name: (cells - centre) @ axes.T for name, cells in dense.items()},
    )
