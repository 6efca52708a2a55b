"""The linear start fitted to training conditions, each of them predicted from the others."""

import numpy as np
import torch

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.means import Condition, ConditionMeans
from bionemo.scale.linear_start.start import PSEUDOCOUNT, combine, from_fold, rows_of, to_fold
from bionemo.scale.linear_start.zero_shot import effects_from_embeddings

LEAST_COMMON = 2
"""What fewer other perturbations than this have in common says nothing of a context."""

GROUPS = 10
"""Perturbations are divided into so many groups; the directions that a group shares are those of the other groups."""

FITTED_CONDITIONS = 4096
"""The fitted numbers need no more training conditions than so many, evenly taken from all."""


class FittedLinearStart:
    """A `FittedLinearStart` holds the buffers of the model's `LinearStart` and the shift that each training set gets.

    What a training condition starts from never contains its own cells: its effect is that of the other contexts, the
    directions that effects share are those of other perturbations, and what its context's perturbations have in common
    is taken over the others.

    Everything is fitted on the scale of :func:`~bionemo.scale.linear_start.start.to_fold`, each gene divided by its
    slope there: a change then counts as much as it does in log1p, and scarce genes do not drown the others in their
    noise.

    Parameters
    ----------
    means
        Of the training conditions.
    contexts, labels
        The store's names.
    vocabulary
        Of the model.
    embeddings
        Of the vocabulary's tokens [tokens, E], for a model that takes them: from these come the effects of
        perturbations that training has not shown.
    """

    plain = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    """All parts of an effect, all that is common, no pull."""
    clear = 4.0
    """Standard errors beyond which what a perturbation does to a gene is not taken for noise."""
    prior_conditions = 5.0
    """``plain`` counts as much as so many training conditions: with a handful of contexts the fit alone misleads."""
    half_weight = 100
    """Cells with which a condition weighs half of what it would weigh with any number of them."""
    components = 8
    """Directions of expression that the effects of perturbations are taken to share."""
    length = 0.65
    """Of shifts, on the way from that of least squares (0) to that of real effects (1), in logarithms."""
    pseudocount = PSEUDOCOUNT
    """Of the scale; the model's own, but for comparisons."""

    def __init__(
        self,
        means: ConditionMeans,
        contexts: list[str],
        labels: list[str],
        vocabulary: Vocabulary,
        embeddings: np.ndarray | None = None,
    ):
        self._means, self._contexts, self._labels, self._vocabulary = means, contexts, labels, vocabulary
        self._weight = {
            condition: means.cells[condition] / (means.cells[condition] + self.half_weight) for condition in means.delta
        }
        self._of_context: dict[int, list[int]] = {}
        self._of_label: dict[int, list[int]] = {}
        for context, label in means.delta:
            self._of_context.setdefault(context, []).append(label)
            self._of_label.setdefault(label, []).append(context)
        index = {label: i for i, label in enumerate(labels)}
        self._control = index[vocabulary.control]
        self._change_scale()
        self._total = {context: self._sums(context, found) for context, found in self._of_context.items()}
        self._trained = [index[label] for label in vocabulary.start_labels]
        self._directions = _shared_directions(
            np.stack([self._mean_delta(label) for label in self._trained]), self.components
        )
        self._group = {label: place % len(self._directions) for place, label in enumerate(self._trained)}
        parts = np.stack([self._effect(label) for label in self._trained])
        further = np.zeros((len(vocabulary.embedded) + 1, *parts.shape[1:]))
        self._parts = torch.from_numpy(np.concatenate([parts, further]))
        self.shares = self._fit()
        """Of the three parts of an effect, of what is common, and of the pull."""
        if embeddings is not None and vocabulary.embedded:
            # Divided by what the parts are multiplied by: a regression has shrunk it already.
            effects = self._zero_shot(parts.sum(1), embeddings) / self.shares[:3].sum()
            self._parts[len(parts) : -1] = torch.from_numpy(effects)[:, None]
        self._made: dict[Condition, torch.Tensor] = {}

    def buffers(self) -> dict[str, torch.Tensor]:
        """Values of the model's buffers, by their names in it."""
        place = {name: i for i, name in enumerate(self._contexts)}
        common = [self._common(place[name]) for name in self._vocabulary.contexts] + [None]
        nothing = np.zeros_like(self._middle)
        per_unit = torch.from_numpy(1 / self._unit)
        further = [None] * (len(self._vocabulary.embedded) + 1)
        elsewhere = [self._common_elsewhere(None, label) for label in (*self._trained, *further)]
        found = {
            "effect": torch.einsum("s,lsg->lg", torch.from_numpy(self.shares[:3]), self._parts) * per_unit,
            "elsewhere": torch.from_numpy(np.stack(elsewhere)) * per_unit,
            "common": torch.from_numpy(np.stack([nothing if row is None else row for row in common])) * per_unit,
            "known": np.array([row is not None for row in common]),
            "middle": torch.from_numpy(self._middle) * per_unit,
            "shares": self.shares[3:],
        }
        return {f"linear_start.{name}": torch.as_tensor(values).float() for name, values in found.items()}

    def control_mean(self, context: int) -> torch.Tensor:
        """Mean of the control cells of a context, float32 [G]."""
        return torch.from_numpy(self._means.control[context]).float()

    def delta(self, context: int, label: int) -> torch.Tensor:
        """Shift to start a set of that condition from, by the store's indices, float32 [G]."""
        if self._labels[label] == self._vocabulary.control:
            return torch.zeros(len(self._middle))
        if (context, label) not in self._made:
            level = (self._level[context] + self.shares @ self._features(context, label)) / self._unit
            moved = from_fold(torch.from_numpy(level), self.pseudocount)
            self._made[context, label] = (moved - torch.from_numpy(self._means.control[context])).float()
        return self._made[context, label]

    def _change_scale(self) -> None:
        """Set levels of controls, deltas and the noise of means on the scale of the fit, [G] each.

        A gene's unit is the slope of log1p to that scale at the middle of the training contexts.
        """
        means = self._means
        middle = np.mean([means.control[context] for context in self._of_context], axis=0)
        self._unit = 1 / self._slope(middle)
        self._level = {context: self._unit * self._to_fold(mean) for context, mean in means.control.items()}
        self._middle = np.mean([self._level[context] for context in self._of_context], axis=0)
        self._delta, self._noise = {}, {}
        for condition, delta in means.delta.items():
            # A mean cannot be below 0; rounding may have put it there.
            mean = np.maximum(means.control[condition[0]] + delta, 0)
            self._delta[condition] = self._unit * self._to_fold(mean) - self._level[condition[0]]
            self._noise[condition] = means.noise[condition] * np.square(self._unit * self._slope(mean))
        for context in self._of_context:
            slope = self._unit * self._slope(means.control[context])
            self._noise[context, self._control] = means.noise[context, self._control] * np.square(slope)

    def _to_fold(self, mean: np.ndarray) -> np.ndarray:
        return to_fold(torch.from_numpy(mean), self.pseudocount).numpy()

    def _slope(self, mean: np.ndarray) -> np.ndarray:
        return np.exp(mean) / (np.expm1(mean) + self.pseudocount)

    def _fit(self) -> np.ndarray:
        """Least squares over genes and the conditions whose perturbation another context has, then a size.

        A ridge draws it to ``plain``, which is also what is left of it where the data determine nothing. Least squares
        answers shifts that are too small, the more so the less it knows: it is best on squared error and
        wrong in how many genes move. What is predicted has a size between that and the real one; see ``length``.
        """
        pairs = [condition for condition in self._means.delta if len(self._of_label[condition[1]]) > 1]
        if not pairs:
            return self.plain
        pairs = pairs[:: -(-len(pairs) // FITTED_CONDITIONS)]
        features = np.stack([self._features(*pair) for pair in pairs])
        observed = np.stack([self._delta[pair] for pair in pairs])
        weights = np.array([self._weight[pair] for pair in pairs])
        normal = np.einsum("c,csg,ctg->st", weights, features, features)
        right = np.einsum("c,csg,cg->s", weights, features, observed - self.plain @ features)
        normal += self.prior_conditions / len(pairs) * np.diag(np.diag(normal))
        shares = self.plain + np.linalg.lstsq(normal, right, rcond=1e-8)[0]
        noise = [self._noise[pair].sum() + self._noise[pair[0], self._control].sum() for pair in pairs]
        real = weights @ (np.square(observed).sum(1) - noise)
        fitted = weights @ np.square(shares @ features).sum(1)
        return shares * max(real / fitted, 1.0) ** (self.length / 2) if fitted > 0 else shares

    def _features(self, context: int, label: int) -> np.ndarray:
        """Effect elsewhere in its parts, what is common here, and the way to the mean of contexts, [5, G]."""
        common = self._common(context, label)
        if common is None:
            common = self._common_elsewhere(context, label)
        pull = self._middle - self._level[context]
        return np.stack([*self._effect_elsewhere(context, label), common, pull])

    def _effect_elsewhere(self, context: int, label: int) -> np.ndarray:
        """As :meth:`_effect`; where the label is in no other context, what is known of its perturbations."""
        if context in self._of_label.get(label, []) and len(self._of_label[label]) > 1:
            return self._effect(label, without=context)
        name = self._labels[label]
        without = (name,) if context in self._of_label.get(label, []) else ()
        return combine(self._parts, rows_of(name, self._vocabulary, without)).numpy()

    def _zero_shot(self, effects: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Effects of the tokens that only have an embedding; that of a combination is the sum of its names'."""
        rows = [[row for row, _ in self._vocabulary.token_rows(self._labels[label])] for label in self._trained]
        known = np.stack([embeddings[found].sum(0) for found in rows]).astype(np.float64)
        return effects_from_embeddings(known, effects, embeddings[len(self._vocabulary.perturbations) :])

    def _mean_delta(self, label: int) -> np.ndarray:
        conditions = [(context, label) for context in self._of_label[label]]
        return np.average([self._delta[c] for c in conditions], axis=0, weights=[self._weight[c] for c in conditions])

    def _effect(self, label: int, without: int | None = None) -> np.ndarray:
        """Mean over contexts of what a label does beyond what is common there, in three parts [3, G].

        The first is what of it lies in the directions that other perturbations share. The rest is whole in the third
        where a gene's is clear of its error, and in the second elsewhere, shrunk by the share of its squared length
        that is the error of the means (James and Stein's estimator, positive part).
        """
        effects, weights, noise = [], [], []
        for context in self._of_label[label]:
            if context == without:
                continue
            common = self._common(context, label)
            effects.append(self._delta[context, label] - (0.0 if common is None else common))
            weights.append(self._weight[context, label])
            noise.append(self._noise[context, label])
        weights = np.array(weights) / np.sum(weights)
        effect = weights @ np.stack(effects)
        directions = self._directions[self._group[label]]
        shared = effect @ directions.T @ directions if len(directions) else effect
        error = np.square(weights) @ np.stack(noise)
        return self._parts_of(effect, shared, error)

    def _parts_of(self, effect: np.ndarray, shared: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Parts of an effect [3, G], given what of it others share and the variance of each gene's mean, all [G]."""
        own = effect - shared
        clear = np.square(own) > self.clear**2 * error
        return np.stack([shared, np.where(clear, 0.0, _less_noise(own, error)), np.where(clear, own, 0.0)])

    def _common(self, context: int, without: int | None = None) -> np.ndarray | None:
        """Mean delta of a context's other training perturbations; None if there are too few."""
        found = self._of_context.get(context, [])
        if len(found) - (without in found) < LEAST_COMMON:
            return None
        total, weight = self._total[context]
        if without in found:
            own, own_weight = self._sums(context, [without])
            total, weight = total - own, weight - own_weight
        return total / weight

    def _sums(self, context: int, labels: list[int]) -> tuple[np.ndarray, float]:
        """Weighted deltas of conditions of a context, and their weights, summed."""
        conditions = [(context, label) for label in labels]
        total = np.sum([self._weight[c] * self._delta[c] for c in conditions], axis=0)
        return total, sum(self._weight[c] for c in conditions)

    def _common_elsewhere(self, context: int | None, label: int | None) -> np.ndarray:
        """Mean of that over the other contexts; zeros if there is none."""
        others = [self._common(other, label) for other in self._of_context if other != context]
        known = [common for common in others if common is not None]
        return np.mean(known, axis=0) if known else np.zeros_like(self._middle)


def _less_noise(values: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Shrink by the share of the squared length that is error; not below zero."""
    length, noise = np.square(values).sum(), error.sum()
    return values * ((length - noise) / length if length > noise else 0.0)


def _shared_directions(effects: np.ndarray, components: int) -> list[np.ndarray]:
    """For each group of perturbations the first principal directions of the effects of the others, orthonormal rows.

    Parameters
    ----------
    effects
        Of one perturbation each, holding no other's cells [L, G]; row i belongs to group i modulo the number of groups.
    components
        How many directions.

    Returns
    -------
    list
        One array [at most ``components``, G] a group; without rows where the others are too few to share anything.
    """
    groups = min(GROUPS, len(effects))
    member = np.arange(len(effects)) % groups
    found = []
    for group in range(groups):
        others = effects[member != group]
        rank = min(components, len(others) // 2)
        found.append(np.linalg.svd(others - others.mean(0), full_matrices=False)[2][:rank] if rank else others[:0])
    return found
