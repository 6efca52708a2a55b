"""Estimate mean cells and shifts of a scored condition, log1p [G], from the training conditions."""

from copy import copy
from dataclasses import dataclass

import numpy as np

from bionemo.perteval.inputs.screen import Screen, mean_cell

RIDGE = 0.1
"""Penalty of the additive fit, in units of training conditions: with n of them a level is shrunk by n / (n + 0.1)."""


@dataclass(frozen=True)
class _Training:
    """A `_Training` holds sums of mean cells over the training conditions, which may be far more than contexts."""

    contexts: dict[str, int]
    perturbations: dict[str, int]
    """Both say label -> row of the arrays."""
    there: np.ndarray
    """Whether training has the perturbation in the context, float64 [C, P]."""
    by_context: np.ndarray
    """Sums of mean cells, log1p [C, G]."""
    by_perturbation: np.ndarray
    """Sums of mean cells, log1p [P, G]."""

    @classmethod
    def of(cls, screen: Screen) -> "_Training":
        contexts, perturbations = (
            {label: row for row, label in enumerate(sorted({condition[which] for condition in screen.training}))}
            for which in (0, 1)
        )
        there = np.zeros((len(contexts), len(perturbations)))
        by_context, by_perturbation = (np.zeros((len(of), screen.genes.size)) for of in (contexts, perturbations))
        for context, perturbation in screen.training:
            row, column = contexts[context], perturbations[perturbation]
            mean = mean_cell(screen.cells(context, perturbation))  # needed once: the screen would keep it
            there[row, column] = 1.0
            by_context[row] += mean
            by_perturbation[column] += mean
        return cls(contexts, perturbations, there, by_context, by_perturbation)


class Estimates:
    """`Estimates` are means and shifts over the training conditions, made once and safe to share among threads.

    A perturbation or context that no training condition has gets the mean over those that training has. Of the screen
    only its training conditions and the control cells are used.
    """

    def __init__(self, screen: Screen):
        self._screen = screen
        self._training = _Training.of(screen)
        self._see([screen.mean(context, screen.control) for context in self._training.contexts])

    def with_controls(self, context: str, control_mean: np.ndarray) -> "Estimates":
        """Return what one knows who has another mean control cell of a context, log1p [G]; the rest is shared."""
        seen = copy(self)
        seen._see(
            [control_mean if name == context else self._controls[row] for name, row in self._training.contexts.items()]
        )
        return seen

    def _see(self, controls: list[np.ndarray]) -> None:
        """Take the mean control cell of every training context, and fit at once: later calls only read."""
        if not controls:
            return
        training = self._training
        self._controls = np.stack(controls)
        self._per_context = training.there.sum(axis=1)
        self._per_perturbation = training.there.sum(axis=0)
        self._context_means = training.by_context / self._per_context[:, None]
        self._mean_cell = self._context_means.mean(axis=0)
        self._mean_delta = (self._context_means - self._controls).mean(axis=0)
        self._effects = self._fit()

    def mean_delta(self, context: str, perturbation: str) -> np.ndarray:
        """Return the mean delta of all training conditions: over the perturbations of a context, then over contexts."""
        return self._mean_delta

    def transferred_delta(self, context: str, perturbation: str) -> np.ndarray:
        """Return the mean over training contexts of the perturbation's delta; else the mean delta."""
        column = self._training.perturbations.get(perturbation)
        return self._mean_delta if column is None else self._delta_sum(column) / self._per_perturbation[column]

    def related_delta(self, context: str, perturbation: str) -> np.ndarray:
        """Return the perturbation's mean delta over the training contexts that share the most factors with this one.

        Factors are the columns that a context is joined from. Where no context with the perturbation shares one, it is
        the transferred delta.
        """
        column, factors = self._training.perturbations.get(perturbation), self._screen.factors
        if column is None:
            return self._mean_delta
        having = [name for name, row in self._training.contexts.items() if self._training.there[row, column]]
        in_common = {
            name: sum(one == other for one, other in zip(factors[name], factors[context], strict=True))
            for name in having
        }
        most = max(in_common.values())
        if most == 0:
            return self.transferred_delta(context, perturbation)
        deltas = [
            self._screen.mean(name, perturbation) - self._controls[self._training.contexts[name]]
            for name, count in in_common.items()
            if count == most
        ]
        return np.mean(deltas, axis=0)

    def linear_delta(self, context: str, perturbation: str) -> np.ndarray:
        """Return ``m + a[context] + b[perturbation]``, fitted to the training deltas by ridge regression.

        The closed form of ``min sum (delta[c, p] - m - a[c] - b[p])^2 + RIDGE (sum a^2 + sum b^2)`` for every gene; a
        level that training does not have counts as 0.
        """
        mean, of_contexts = self._effects[0], self._effects[1:]
        row, column = self._training.contexts.get(context), self._training.perturbations.get(perturbation)
        delta = mean if row is None else mean + of_contexts[row]
        if column is None:
            return delta
        count = self._per_perturbation[column]
        explained = count * mean + self._training.there[:, column] @ of_contexts
        return delta + (self._delta_sum(column) - explained) / (count + RIDGE)

    def perturbation_mean(self, context: str, perturbation: str) -> np.ndarray:
        """Return the mean over training contexts of the perturbation's mean cell; else of all perturbations."""
        column = self._training.perturbations.get(perturbation)
        if column is None:
            return self._mean_cell
        return self._training.by_perturbation[column] / self._per_perturbation[column]

    def context_mean(self, context: str, perturbation: str) -> np.ndarray:
        """Return the mean over the context's training perturbations of their mean cells; else over all contexts."""
        row = self._training.contexts.get(context)
        return self._mean_cell if row is None else self._context_means[row]

    def perturbed_reference(self, context: str) -> np.ndarray:
        """Return the mean perturbed cell of a context: over its training perturbations, else over the scored ones.

        NaN where neither is there to compare with: a context without training perturbations and one that is scored.
        """
        row = self._training.contexts.get(context)
        if row is not None:
            return self._context_means[row]
        names = self._screen.scored[context]
        reference = np.mean([self._screen.mean(context, name) for name in names], axis=0)
        return np.full_like(reference, np.nan) if len(names) == 1 else reference

    def _delta_sum(self, column: int) -> np.ndarray:
        """Return the sum over training contexts of a perturbation's delta [G]."""
        return self._training.by_perturbation[column] - self._training.there[:, column] @ self._controls

    def _fit(self) -> np.ndarray:
        """Return the mean and the effects of the contexts [1 + C, G].

        The normal equations with the effects of the perturbations eliminated, whose block is diagonal: the system has
        the size of the contexts, and screens of thousands of perturbations cost no more than their sums.
        """
        there, controls = self._training.there, self._controls
        coupling = np.vstack([self._per_perturbation, there])  # [1 + C, P]
        left = np.diag(np.concatenate([[there.sum()], self._per_context + RIDGE]))
        left[0, 1:] = left[1:, 0] = self._per_context
        by_context = self._training.by_context - self._per_context[:, None] * controls
        by_perturbation = self._training.by_perturbation - there.T @ controls
        right = np.vstack([by_context.sum(axis=0), by_context])
        weighted = coupling / (self._per_perturbation + RIDGE)
        return np.linalg.solve(left - weighted @ coupling.T, right - weighted @ by_perturbation)
