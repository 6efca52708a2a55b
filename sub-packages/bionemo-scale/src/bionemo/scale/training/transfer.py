"""The linear transfer fitted to training conditions, each of them predicted from the others."""

import numpy as np
import torch

from bionemo.scale.model.transfer import combine, rows_of
from bionemo.scale.model.vocabulary import Vocabulary
from bionemo.scale.training.statistics import ConditionMeans

LEAST_COMMON = 2
"""What fewer other perturbations than this have in common says nothing of a context."""


PRIOR_CONDITIONS = 3
"""The plain transfer counts as much as so many training conditions: with a handful of contexts the fit alone misleads.
"""


class FittedTransfer:
    """Buffers of :class:`~bionemo.scale.model.transfer.Transfer`, and the shift that each training set starts from.

    What a training condition starts from never contains its own cells: its effect is that of the other contexts, and
    what its context's perturbations have in common is taken over the others.

    Parameters
    ----------
    means
        Of the training conditions.
    contexts, labels
        The store's names.
    vocabulary
        Of the model.
    """

    def __init__(self, means: ConditionMeans, contexts: list[str], labels: list[str], vocabulary: Vocabulary):
        self._means, self._contexts, self._labels, self._vocabulary = means, contexts, labels, vocabulary
        self._of_context: dict[int, list[int]] = {}
        self._of_label: dict[int, list[int]] = {}
        for context, label in means.delta:
            self._of_context.setdefault(context, []).append(label)
            self._of_label.setdefault(label, []).append(context)
        self._total = {
            context: np.sum([means.delta[context, label] for label in found], axis=0)
            for context, found in self._of_context.items()
        }
        self._middle = np.mean([means.control[context] for context in self._of_context], axis=0)
        index = {label: i for i, label in enumerate(labels)}
        self._trained = [index[label] for label in vocabulary.transferred]
        effects = [self._effect(label) for label in self._trained]
        self._effects = torch.from_numpy(np.stack([*effects, np.zeros_like(self._middle)]))
        self.shares = self._fit()
        """s, b and a."""
        self._made: dict[tuple[int, int], torch.Tensor] = {}

    def buffers(self) -> dict[str, torch.Tensor]:
        """Values of the model's buffers, by their names in it."""
        place = {name: i for i, name in enumerate(self._contexts)}
        common = [self._common(place[name]) for name in self._vocabulary.contexts] + [None]
        nothing = np.zeros_like(self._middle)
        elsewhere = [self._common_elsewhere(None, label) for label in (*self._trained, None)]
        found = {
            "effect": self._effects,
            "elsewhere": np.stack(elsewhere),
            "common": np.stack([nothing if row is None else row for row in common]),
            "known": np.array([row is not None for row in common]),
            "middle": self._middle,
            "shares": self.shares,
        }
        return {f"transfer.{name}": torch.as_tensor(values).float() for name, values in found.items()}

    def control_mean(self, context: int) -> torch.Tensor:
        """Mean of the control cells of a context, float32 [G]."""
        return torch.from_numpy(self._means.control[context]).float()

    def delta(self, context: int, label: int) -> torch.Tensor:
        """Shift to start a set of that condition from, by the store's indices, float32 [G]."""
        if self._labels[label] == self._vocabulary.control:
            return torch.zeros(len(self._middle))
        if (context, label) not in self._made:
            shift = self.shares @ self._features(context, label)
            self._made[context, label] = torch.from_numpy(shift).float()
        return self._made[context, label]

    def _fit(self) -> np.ndarray:
        """Least squares over genes and the conditions whose perturbation another context has.

        A ridge draws it to the plain transfer (all of the effect, all that is common, no pull), which is also what is
        left of it where the data determine nothing.
        """
        pairs = [(context, label) for context, label in self._means.delta if len(self._of_label[label]) > 1]
        plain = np.array([1.0, 1.0, 0.0])
        if not pairs:
            return plain
        normal, right = np.zeros((3, 3)), np.zeros(3)
        for pair in pairs:
            features = self._features(*pair)
            normal += features @ features.T
            right += features @ (self._means.delta[pair] - plain @ features)
        normal += PRIOR_CONDITIONS / len(pairs) * np.diag(np.diag(normal))
        return plain + np.linalg.lstsq(normal, right, rcond=1e-8)[0]

    def _features(self, context: int, label: int) -> np.ndarray:
        """Effect elsewhere, what is common here, and the way to the mean of contexts, [3, G]."""
        common = self._common(context, label)
        if common is None:
            common = self._common_elsewhere(context, label)
        pull = self._middle - self._means.control[context]
        return np.stack([self._effect_elsewhere(context, label), common, pull])

    def _effect_elsewhere(self, context: int, label: int) -> np.ndarray:
        if context not in self._of_label.get(label, []):
            return combine(self._effects, rows_of(self._labels[label], self._vocabulary)).numpy()
        if len(self._of_label[label]) > 1:
            return self._effect(label, without=context)
        name = self._labels[label]
        return combine(self._effects, rows_of(name, self._vocabulary, without=(name,))).numpy()

    def _effect(self, label: int, without: int | None = None) -> np.ndarray:
        effects = []
        for context in self._of_label[label]:
            if context != without:
                common = self._common(context, label)
                effects.append(self._means.delta[context, label] - (0.0 if common is None else common))
        return np.mean(effects, axis=0)

    def _common(self, context: int, without: int | None = None) -> np.ndarray | None:
        """Mean delta of a context's other training perturbations; None if there are too few."""
        found = self._of_context.get(context, [])
        others = len(found) - (without in found)
        if others < LEAST_COMMON:
            return None
        total = self._total[context] - (self._means.delta[context, without] if without in found else 0.0)
        return total / others

    def _common_elsewhere(self, context: int | None, label: int | None) -> np.ndarray:
        """Mean of that over the other contexts; zeros if there is none."""
        others = [self._common(other, label) for other in self._of_context if other != context]
        known = [common for common in others if common is not None]
        return np.mean(known, axis=0) if known else np.zeros_like(self._middle)
