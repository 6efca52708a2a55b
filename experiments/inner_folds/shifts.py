"""Shifts of held-out conditions: the baselines', the model's, and the model's with parts left out."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bionemo.scale.linear_start.fit import Fit
from bionemo.scale.linear_start.fitted import FittedLinearStart
from experiments.inner_folds.folds import Cells, Condition, Fold

Shifts = Callable[[Cells, Fold], dict[Condition, np.ndarray]]
"""(cells, fold) -> held-out condition -> shift, log1p [G]."""


class OneEffect(Fit):
    """Three fitted numbers: of the whole effect, of what is common, of the pull. Every condition weighs the same."""

    plain = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    half_weight = 0

    @classmethod
    def parts_of(cls, effect: np.ndarray, shared: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Divide effects in three, as this form does."""
        return np.stack([effect, np.zeros_like(effect), np.zeros_like(effect)], axis=1)


class Directions(Fit):
    """What lies in shared directions and what does not, nothing shrunk by its noise."""

    plain = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])

    @classmethod
    def parts_of(cls, effect: np.ndarray, shared: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Divide effects in three, as this form does."""
        return np.stack([shared, effect - shared, np.zeros_like(effect)], axis=1)


class JamesStein(Directions):
    """With J."""

    @classmethod
    def parts_of(cls, effect: np.ndarray, shared: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Divide effects in three, as this form does."""
        return np.stack([shared, less_noise(effect - shared, error, axis=1), np.zeros_like(effect)], axis=1)


class GeneByGene(Fit):
    """With J and W: beside it the whole effect, each gene of it shrunk by its own noise."""

    plain = np.array([0.5, 0.5, 0.5, 1.0, 0.0, 0.0])

    @classmethod
    def parts_of(cls, effect: np.ndarray, shared: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Divide effects in three, as this form does."""
        return np.stack(
            [shared, less_noise(effect - shared, error, axis=1), less_noise(effect, error, axis=None)], axis=1
        )


def less_noise(values: np.ndarray, error: np.ndarray, axis: int | None) -> np.ndarray:
    """James and Stein's estimator, positive part, of all genes of a row together (axis 1) or of each alone (None)."""
    length, noise = np.square(values), error
    if axis is not None:
        length, noise = length.sum(axis, keepdims=True), noise.sum(axis, keepdims=True)
    return values * np.where(length > noise, (length - noise) / np.where(length > 0, length, 1.0), 0.0)


def fitted(form: type[Fit] = Fit, **settings: Any) -> Shifts:
    """The shifts of a fitted linear start with other settings."""
    kind = type(form.__name__, (form,), settings)

    def shifts(cells: Cells, fold: Fold) -> dict[Condition, np.ndarray]:
        known = cells.trained(fold.train), cells.contexts, cells.labels, cells.vocabulary(fold.train)
        found = FittedLinearStart(*known, fit=kind)
        return {c: found.delta(*cells.index(c)).numpy().astype(np.float64) for c in fold.held_out}

    return shifts


def baseline(name: str) -> Shifts:
    """The shifts of a method of :class:`~bionemo.perteval.populations.estimates.Estimates`."""

    def shifts(cells: Cells, fold: Fold) -> dict[Condition, np.ndarray]:
        estimates = cells.baselines(fold.train)
        return {condition: getattr(estimates, name)(*condition) for condition in fold.held_out}

    return shifts


def oracle(cells: Cells, fold: Fold) -> dict[Condition, np.ndarray]:
    """The observed shifts: what is left to the population."""
    return {condition: cells.delta(condition) for condition in fold.held_out}


def prior_chosen_inside(cells: Cells, fold: Fold) -> dict[Condition, np.ndarray]:
    """The default with the prior that predicts each training context best from the others, as the data alone say it."""
    contexts = sorted({context for context, _ in fold.train})
    inner = [
        Fold(
            train=tuple(c for c in fold.train if c[0] != context),
            held_out=tuple(c for c in fold.train if c[0] == context),
            apart=(),
            rotation=fold.rotation,
        )
        for context in contexts
    ]
    errors = {prior: sum(_squared_error(cells, one, prior) for one in inner) for prior in CHOICES}
    return fitted(prior_conditions=min(errors, key=errors.__getitem__))(cells, fold)


def _squared_error(cells: Cells, fold: Fold, prior: float) -> float:
    found = fitted(prior_conditions=prior, length=0.0)(cells, fold)
    return sum(float(np.square(delta - cells.training_delta(condition)).sum()) for condition, delta in found.items())


LOG1P: dict[str, Any] = {"pseudocount": 1.0, "prior_conditions": 3.0, "interacts": False}
"""Fitted to log1p means, where a shift adds, with the weight of the prior that was best there, and no interaction."""

FORMS: dict[str, Shifts] = {
    "plain transferred delta": baseline("transferred_delta"),
    "ridge on perturbation and context": baseline("linear_delta"),
    "three fitted numbers, P = 1, all weights 1": fitted(OneEffect, **LOG1P),
    **{
        f"{n} directions, all weights 1": fitted(Directions, components=n, half_weight=0, **LOG1P)
        for n in (1, 2, 4, 8, 12)
    },
    **{f"8 directions, weights n / (n + {n})": fitted(Directions, half_weight=n, **LOG1P) for n in (50, 100, 150, 500)},
    "and J": fitted(JamesStein, **LOG1P),
    "and W, every gene shrunk alone": fitted(GeneByGene, **LOG1P),
    "W on fold changes": fitted(GeneByGene, prior_conditions=3.0, interacts=False),
    **{f"and K beyond {clear:g} standard errors": fitted(clear=clear, **LOG1P) for clear in (2.0, 3.0, 4.0, 5.0)},
    **{
        f"K beyond 3 on fold changes, pseudocount {pseudocount:g}": fitted(
            pseudocount=pseudocount, prior_conditions=3.0, interacts=False
        )
        for pseudocount in (0.05, 0.2, 0.5)
    },
    "and a prior of 5 conditions": fitted(interacts=False),
    "and the interaction (the default)": fitted(),
}
"""From the simplest to the default."""

PRIORS = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0)
"""Weights of the prior, in conditions."""
CHOICES = (1.0, 3.0, 5.0, 8.0, 15.0, 30.0)
"""Those that the data may choose from."""
LENGTHS = (0.0, 0.5, 0.65, 1.0)
"""From the length of least squares to that of real effects."""
