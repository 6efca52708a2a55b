"""Say what is known of a condition from other conditions: effects, what a context has in common, how noisy both are.

Axes: L training labels, n labels that a context shows, G genes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bionemo.scale.linear_start.fold_change import slope, to_fold
from bionemo.scale.linear_start.means import ConditionMeans
from bionemo.screens.controls import ControlRole

LEAST_COMMON = 2
"""What fewer other perturbations than this have in common says nothing of a context."""

GROUPS = 10
"""Perturbations are divided into so many groups; the directions that a group shares are those of the other groups."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """`Shown` is what one context shows."""

    rows: np.ndarray
    """Rows of its labels in the tables of all labels [n]."""
    weight: np.ndarray
    """Weight of each condition in every mean [n]."""
    delta: np.ndarray
    """Shifts from the control cells of the role input, float32 [n, G]."""
    observed: np.ndarray
    """Shifts from those of the role target, float32 [n, G]."""
    noise: np.ndarray
    """Variance of the mean of each condition, float32 [n, G]."""
    common: np.ndarray | None
    """Mean shift of the context's labels [G]; None if there are too few."""
    common_of_others: np.ndarray | None
    """The same without each label itself [n, G]; None if there are too few."""


class Evidence:
    """An `Evidence` holds averages over training conditions, on the scale of :mod:`.fold_change`.

    Shifts are measured against the control cells that predictions are made from. What a prediction is fitted to,
    `observed`, is measured against other ones: else the sampling noise of one mean of control cells would stand on both
    sides, and a fit would take it for something to learn.

    Each gene is divided by the slope of that scale at the middle of the training contexts: a change then counts as much
    as it does in log1p, and scarce genes do not drown the others in their noise. What a context shows is worked out
    anew each time: shifts of all conditions would fill the memory.

    `labels` are the store's indices of the training labels, in the order of all tables. With `half_weight` cells a
    condition weighs half of what it would weigh with any number of them.

    Attributes
    ----------
    contexts
        Contexts with a training condition, the store's indices.
    level
        Context -> mean of its control cells of the role input [G].
    target_noise
        Context -> variance of the mean of its control cells of the role target [G].
    middle
        Mean level of the training contexts [G].
    unit
        What a logarithm is multiplied by to be on this scale [G].
    mean_shift
        Mean shift of each label over its contexts [L, G].
    common_elsewhere
        For each label, and last for any other, the mean over contexts of what their other labels have in common
        [L + 1, G]; contexts with too few labels do not count, and 0 is the mean of none.
    """

    def __init__(self, means: ConditionMeans, labels: Sequence[int], half_weight: float, pseudocount: float):
        self._means, self._half_weight, self._pseudocount = means, half_weight, pseudocount
        row = {label: i for i, label in enumerate(labels)}
        self._labels: dict[int, list[int]] = {}
        for context, label in means.mean:
            self._labels.setdefault(context, []).append(label)
        self._rows = {context: np.array([row[label] for label in shown]) for context, shown in self._labels.items()}
        self.contexts = list(self._labels)

        controls, targets = means.control[ControlRole.INPUT], means.control[ControlRole.TARGET]
        self.unit = 1 / slope(np.mean([controls[context] for context in self.contexts], axis=0), pseudocount)
        self.level = {context: self._scaled(mean) for context, mean in controls.items()}
        self._target = {context: self._scaled(targets[context]) for context in self.contexts}
        self.target_noise = {
            context: means.control_noise[ControlRole.TARGET][context]
            * np.square(self.unit * slope(targets[context], pseudocount))
            for context in self.contexts
        }
        self.middle = np.mean([self.level[context] for context in self.contexts], axis=0)

        shape = len(labels), len(self.middle)
        self._weight = np.zeros((len(labels), 1))
        self._effect, self._error, self.mean_shift = (np.zeros(shape) for _ in range(3))
        elsewhere, counted = np.zeros((shape[0] + 1, shape[1])), np.zeros((shape[0] + 1, 1))
        for context in self.contexts:
            shown = self.shown(context)
            rows, weight = shown.rows, shown.weight[:, None]
            self._weight[rows] += weight
            self.mean_shift[rows] += weight * shown.delta
            self._effect[rows] += weight * own_effect(shown)
            self._error[rows] += np.square(weight) * shown.noise
            if shown.common is None:
                continue
            others = np.ones(len(elsewhere), dtype=bool)
            others[rows] = False
            elsewhere[others] += shown.common
            counted[others] += 1
            if shown.common_of_others is not None:
                elsewhere[rows] += shown.common_of_others
                counted[rows] += 1
        self.mean_shift = (self.mean_shift / self._weight).astype(np.float32)
        self.common_elsewhere = (elsewhere / np.maximum(counted, 1)).astype(np.float32)

    def shown(self, context: int) -> Shown:
        """Return what a context of `contexts` shows."""
        means = self._means
        conditions = [(context, label) for label in self._labels[context]]
        cells = np.array([means.cells[condition] for condition in conditions])
        weight = cells / (cells + self._half_weight)
        shape = len(conditions), len(self.middle)
        delta, observed, noise = (np.empty(shape, dtype=np.float32) for _ in range(3))
        for i, condition in enumerate(conditions):
            mean = np.asarray(means.mean[condition], dtype=np.float64)
            scaled = self._scaled(mean)
            delta[i], observed[i] = scaled - self.level[context], scaled - self._target[context]
            noise[i] = means.noise[condition] * np.square(self.unit * slope(mean, self._pseudocount))
        total = weight @ delta
        enough = len(conditions) > LEAST_COMMON
        return Shown(
            rows=self._rows[context],
            weight=weight,
            delta=delta,
            observed=observed,
            noise=noise,
            common=total / weight.sum() if len(conditions) >= LEAST_COMMON else None,
            common_of_others=_without_each(total, weight, delta) if enough else None,
        )

    def effects(self, without: Shown | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the mean over contexts of what labels do beyond what is common there, its variance, and what is known.

        What one context shows may be left out. Effects and variances are float32 [L, G], 0 of labels that no other
        context shows; which are shown is bool [L].
        """
        weight, effect, error = self._weight.copy(), self._effect.copy(), self._error.copy()
        known = np.ones(len(weight), dtype=bool)
        if without is not None:
            rows, own = without.rows, without.weight[:, None]
            weight[rows] -= own
            effect[rows] -= own * own_effect(without)
            error[rows] -= np.square(own) * without.noise
            known[rows] = weight[rows, 0] > 1e-9
        weight[~known] = np.inf
        effect /= weight
        np.maximum(error, 0, out=error)
        error /= np.square(weight)
        return effect.astype(np.float32), error.astype(np.float32), known

    def _scaled(self, mean: np.ndarray) -> np.ndarray:
        return self.unit * to_fold(torch.from_numpy(mean), self._pseudocount).numpy()


def _without_each(total: np.ndarray, weight: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Return the weighted mean without each row, float32 [n, G], of rows whose weighted sum is ``total``."""
    left = (weight.sum() - weight)[:, None].astype(np.float32)
    mean = total.astype(np.float32) - weight[:, None].astype(np.float32) * delta
    mean /= left
    return mean


def own_effect(shown: Shown) -> np.ndarray:
    """Return what the labels of a context do there beyond what the others have in common [n, G]."""
    return shown.delta if shown.common_of_others is None else shown.delta - shown.common_of_others


def shared_directions(effects_LG: np.ndarray, components: int) -> list[np.ndarray]:
    """Return, for each group of perturbations, the first principal directions of the effects of the other groups.

    A row of effects holds no other perturbation's cells, and row i belongs to group i modulo the number of groups. The
    directions of a group are orthonormal rows [at most ``components``, G], none where the others are too few to share
    anything.
    """
    groups = min(GROUPS, len(effects_LG))
    member = np.arange(len(effects_LG)) % groups
    return [principal_directions(effects_LG[member != group], components) for group in range(groups)]


def principal_directions(effects_LG: np.ndarray, components: int) -> np.ndarray:
    """Return at most so many principal directions of effects, half as many as there are at most, orthonormal rows."""
    rank = min(components, len(effects_LG) // 2)
    return np.linalg.svd(effects_LG - effects_LG.mean(0), full_matrices=False)[2][:rank] if rank else effects_LG[:0]
