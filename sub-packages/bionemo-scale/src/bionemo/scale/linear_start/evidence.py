"""Say what is known of a condition from other conditions: effects, what a context has in common, how noisy both are."""

import numpy as np
import torch

from bionemo.scale.linear_start.fold_change import to_fold
from bionemo.scale.linear_start.means import Condition, ConditionMeans
from bionemo.screens.controls import ControlRole

LEAST_COMMON = 2
"""What fewer other perturbations than this have in common says nothing of a context."""

GROUPS = 10
"""Perturbations are divided into so many groups; the directions that a group shares are those of the other groups."""


class Evidence:
    """An `Evidence` holds the training conditions' shifts on the scale of :mod:`.fold_change`, and averages of them.

    They are measured against the control cells that predictions are made from. What a prediction is fitted to,
    `observed`, is measured against other ones: else the sampling noise of one mean of control cells would stand on both
    sides, and a fit would take it for something to learn.

    Each gene is divided by the slope of that scale at the middle of the training contexts: a change then counts as much
    as it does in log1p, and scarce genes do not drown the others in their noise.

    Parameters
    ----------
    means
        Means of the training conditions.
    half_weight
        Cells with which a condition weighs half of what it would weigh with any number of them.
    pseudocount
        Pseudocount of the scale.

    Attributes
    ----------
    contexts, labels
        Context -> its training labels, and label -> the contexts that show it; the store's indices.
    weight
        Condition -> its weight in every mean.
    delta, observed
        Condition -> its shift from the control cells of the role input, and from those of the role target [G].
    noise
        Condition -> variance of its mean [G].
    target_noise
        Context -> variance of the mean of its control cells of the role target [G].
    level
        Context -> mean of its control cells of the role input [G].
    middle
        Mean level of the training contexts [G].
    unit
        What a logarithm is multiplied by to be on this scale [G].
    """

    def __init__(self, means: ConditionMeans, half_weight: float, pseudocount: float):
        self._pseudocount = pseudocount
        self.weight = {c: means.cells[c] / (means.cells[c] + half_weight) for c in means.mean}
        self.contexts: dict[int, list[int]] = {}
        self.labels: dict[int, list[int]] = {}
        for context, label in means.mean:
            self.contexts.setdefault(context, []).append(label)
            self.labels.setdefault(label, []).append(context)

        controls, targets = means.control[ControlRole.INPUT], means.control[ControlRole.TARGET]
        self.unit = 1 / self._slope(np.mean([controls[context] for context in self.contexts], axis=0))
        self.level = {context: self._scaled(mean) for context, mean in controls.items()}
        target = {context: self._scaled(targets[context]) for context in self.contexts}
        self.middle = np.mean([self.level[context] for context in self.contexts], axis=0)
        self.delta: dict[Condition, np.ndarray] = {}
        self.observed: dict[Condition, np.ndarray] = {}
        self.noise: dict[Condition, np.ndarray] = {}
        for condition, mean in means.mean.items():
            scaled = self._scaled(mean)
            self.delta[condition] = scaled - self.level[condition[0]]
            self.observed[condition] = scaled - target[condition[0]]
            self.noise[condition] = means.noise[condition] * np.square(self.unit * self._slope(mean))
        self.target_noise = {
            context: means.control_noise[ControlRole.TARGET][context]
            * np.square(self.unit * self._slope(targets[context]))
            for context in self.contexts
        }
        self._total = {context: self._sums(context, labels) for context, labels in self.contexts.items()}

    def mean_delta(self, label: int) -> np.ndarray:
        """Return the mean shift of a label over its contexts [G]."""
        conditions = [(context, label) for context in self.labels[label]]
        return np.average([self.delta[c] for c in conditions], axis=0, weights=[self.weight[c] for c in conditions])

    def effect(self, label: int, without: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over contexts of what a label does beyond what is common there, and its variance, [G] each.

        Parameters
        ----------
        label
            A label that a context other than ``without`` shows.
        without
            A context to leave out.
        """
        contexts = [context for context in self.labels[label] if context != without]
        common = [self.common(context, label) for context in contexts]
        effects = [
            self.delta[context, label] - (0.0 if shared is None else shared)
            for context, shared in zip(contexts, common, strict=True)
        ]
        weights = np.array([self.weight[context, label] for context in contexts])
        weights /= weights.sum()
        error = np.square(weights) @ np.stack([self.noise[context, label] for context in contexts])
        return weights @ np.stack(effects), error

    def common(self, context: int, without: int | None = None) -> np.ndarray | None:
        """Return the mean shift of a context's training perturbations but one [G]; None if there are too few."""
        labels = self.contexts.get(context, [])
        if len(labels) - (without in labels) < LEAST_COMMON:
            return None
        total, weight = self._total[context]
        if without in labels:
            own, own_weight = self._sums(context, [without])
            total, weight = total - own, weight - own_weight
        return total / weight

    def common_elsewhere(self, context: int | None, label: int | None) -> np.ndarray:
        """Return the mean over the other contexts of what their other perturbations have in common [G]; 0 of none."""
        others = [self.common(other, label) for other in self.contexts if other != context]
        known = [common for common in others if common is not None]
        return np.mean(known, axis=0) if known else np.zeros_like(self.middle)

    def _sums(self, context: int, labels: list[int]) -> tuple[np.ndarray, float]:
        conditions = [(context, label) for label in labels]
        total = np.sum([self.weight[c] * self.delta[c] for c in conditions], axis=0)
        return total, sum(self.weight[c] for c in conditions)

    def _scaled(self, mean: np.ndarray) -> np.ndarray:
        return self.unit * to_fold(torch.from_numpy(mean), self._pseudocount).numpy()

    def _slope(self, mean: np.ndarray) -> np.ndarray:
        return np.exp(mean) / (np.expm1(mean) + self._pseudocount)


def shared_directions(effects_LG: np.ndarray, components: int) -> list[np.ndarray]:
    """Return, for each group of perturbations, the first principal directions of the effects of the other groups.

    Parameters
    ----------
    effects_LG
        One row a perturbation, which holds no other's cells; row i belongs to group i modulo the number of groups.
    components
        How many directions.

    Returns
    -------
    list
        One array of orthonormal rows [at most ``components``, G] a group; without rows where the others are too few to
        share anything.
    """
    groups = min(GROUPS, len(effects_LG))
    member = np.arange(len(effects_LG)) % groups
    found = []
    for group in range(groups):
        others = effects_LG[member != group]
        rank = min(components, len(others) // 2)
        found.append(np.linalg.svd(others - others.mean(0), full_matrices=False)[2][:rank] if rank else others[:0])
    return found
