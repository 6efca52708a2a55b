"""What the training conditions say about a condition that is scored: mean cells and shifts, log1p [G]."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from bionemo.perteval.screen import Screen

RIDGE = 0.1
"""Penalty of the additive fit, in units of training conditions: with n of them a level is shrunk by n / (n + 0.1)."""


class Estimates:
    """Means and shifts over the training conditions of a screen.

    A perturbation or context that no training condition has gets the mean over those that training has.

    Parameters
    ----------
    screen
        The cells; only its training conditions and the control cells are used.
    """

    def __init__(self, screen: Screen):
        self._screen = screen

    def mean_delta(self, context: str, perturbation: str) -> np.ndarray:
        """Return the mean delta of all training conditions: over the perturbations of a context, then over contexts."""
        return self._mean_delta

    def transferred_delta(self, context: str, perturbation: str) -> np.ndarray:
        """Return the mean over training contexts of the perturbation's delta; else the mean delta."""
        having = [where for where, name in self._screen.training if name == perturbation]
        if not having:
            return self._mean_delta
        return np.mean([self._screen.delta(where, perturbation) for where in having], axis=0)

    def linear_delta(self, context: str, perturbation: str) -> np.ndarray:
        """Return ``m + a[context] + b[perturbation]``, fitted to the training deltas by ridge regression.

        The closed form of ``min sum (delta[c, p] - m - a[c] - b[p])^2 + RIDGE (sum a^2 + sum b^2)`` for every gene; a
        level that training does not have counts as 0.
        """
        level, coefficients = self._fit
        effects = [coefficients[level[key]] for key in ((context, None), (None, perturbation)) if key in level]
        return coefficients[0] + sum(effects, start=np.zeros(coefficients.shape[1]))

    def perturbation_mean(self, context: str, perturbation: str) -> np.ndarray:
        """Return the mean over training contexts of the perturbation's mean cell; else of all perturbations."""
        having = [where for where, name in self._screen.training if name == perturbation]
        if not having:
            return self._mean_cell
        return np.mean([self._screen.mean(where, perturbation) for where in having], axis=0)

    def context_mean(self, context: str, perturbation: str) -> np.ndarray:
        """Return the mean over the context's training perturbations of their mean cells; else over all contexts."""
        names = [name for where, name in self._screen.training if where == context]
        if not names:
            return self._mean_cell
        return np.mean([self._screen.mean(context, name) for name in names], axis=0)

    def perturbed_reference(self, context: str) -> np.ndarray:
        """Return the mean perturbed cell of a context: over its training perturbations, else over the scored ones.

        NaN where neither is there to compare with: a context without training perturbations and one that is scored.
        """
        names = [name for where, name in self._screen.training if where == context] or self._screen.scored[context]
        reference = np.mean([self._screen.mean(context, name) for name in names], axis=0)
        alone = names == self._screen.scored[context] and len(names) == 1
        return np.full_like(reference, np.nan) if alone else reference

    @cached_property
    def _mean_delta(self) -> np.ndarray:
        return self._over_contexts(self._screen.delta)

    @cached_property
    def _mean_cell(self) -> np.ndarray:
        return self._over_contexts(self._screen.mean)

    def _over_contexts(self, value: Callable[[str, str], np.ndarray]) -> np.ndarray:
        by_context: dict[str, list[np.ndarray]] = {}
        for context, perturbation in self._screen.training:
            by_context.setdefault(context, []).append(value(context, perturbation))
        return np.mean([np.mean(values, axis=0) for values in by_context.values()], axis=0)

    @cached_property
    def _fit(self) -> tuple[dict[tuple[str | None, str | None], int], np.ndarray]:
        """Return level -> row, and the coefficients, the intercept first [1 + C + P, G]."""
        training = self._screen.training
        contexts = sorted({context for context, _ in training})
        perturbations = sorted({perturbation for _, perturbation in training})
        levels: list[tuple[str | None, str | None]] = [
            *((context, None) for context in contexts),
            *((None, perturbation) for perturbation in perturbations),
        ]
        level = {key: 1 + place for place, key in enumerate(levels)}
        design = np.zeros((len(training), 1 + len(level)))
        design[:, 0] = 1.0
        for row, (context, perturbation) in enumerate(training):
            design[row, [level[context, None], level[None, perturbation]]] = 1.0
        penalty = np.full(design.shape[1], RIDGE)
        penalty[0] = 0.0
        deltas = np.stack([self._screen.delta(*condition) for condition in training])
        return level, np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ deltas)
