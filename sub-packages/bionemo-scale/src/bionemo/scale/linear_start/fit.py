"""Fit the linear start to training conditions, each of them predicted from the others."""

import numpy as np
import torch

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.apply import combine, rows_of
from bionemo.scale.linear_start.evidence import Evidence, shared_directions
from bionemo.scale.linear_start.fold_change import PSEUDOCOUNT, from_fold
from bionemo.scale.linear_start.means import Condition, ConditionMeans
from bionemo.scale.linear_start.zero_shot import effects_from_embeddings
from bionemo.screens.controls import ControlRole

FITTED_CONDITIONS = 4096
"""The fitted numbers need no more training conditions than so many, evenly taken from all."""


class FittedLinearStart:
    """A `FittedLinearStart` holds the model's buffers, and the shift that each training set starts from.

    What a training condition starts from never contains its own cells: its effect is that of the other contexts, the
    directions that effects share are those of other perturbations, and what its context's perturbations have in common
    is taken over the others.

    Parameters
    ----------
    means
        Means of the training conditions.
    contexts, labels
        The store's names.
    vocabulary
        The names of the model.
    embeddings
        Embeddings of the vocabulary's tokens [tokens, E], for a model that takes them: from these come the effects of
        perturbations that training has not shown.
    """

    plain = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    """The transferred delta: all parts of an effect, all that is common, no pull."""
    clear = 4.0
    """Standard errors beyond which what a perturbation does to a gene is not taken for noise."""
    prior_conditions = 5.0
    """``plain`` counts as much as so many training conditions: with a handful of contexts the fit alone misleads."""
    half_weight = 100
    """Cells with which a condition weighs half of what it would weigh with any number of them."""
    components = 8
    """Directions of expression that the effects of perturbations are taken to share."""
    length = 0.65
    """Length of shifts, on the way from that of least squares (0) to that of real effects (1), in logarithms."""
    pseudocount = PSEUDOCOUNT
    """Pseudocount of the scale; a model knows no other, so another one serves comparisons only."""

    def __init__(
        self,
        means: ConditionMeans,
        contexts: list[str],
        labels: list[str],
        vocabulary: Vocabulary,
        embeddings: np.ndarray | None = None,
    ):
        self._contexts, self._labels, self._vocabulary = contexts, labels, vocabulary
        self._controls = means.control[ControlRole.INPUT]
        index = {label: i for i, label in enumerate(labels)}
        self._control = index[vocabulary.control]
        self._evidence = evidence = Evidence(means, self.half_weight, self.pseudocount)
        self._trained = [index[label] for label in vocabulary.start_labels]
        directions = shared_directions(
            np.stack([evidence.mean_delta(label) for label in self._trained]), self.components
        )
        self._directions = {label: directions[i % len(directions)] for i, label in enumerate(self._trained)}
        parts = np.stack([self._effect(label) for label in self._trained])
        further = np.zeros((len(vocabulary.embedded) + 1, *parts.shape[1:]))
        self._parts = torch.from_numpy(np.concatenate([parts, further]))
        self.shares = self._fit()
        """Shares of the three parts of an effect, of what is common, and of the pull: s_1, s_2, s_3, b, a."""
        if embeddings is not None and vocabulary.embedded:
            # Divided by what the parts are multiplied by: a regression has shrunk it already.
            effects = self._zero_shot(parts.sum(1), embeddings) / self.shares[:3].sum()
            self._parts[len(parts) : -1] = torch.from_numpy(effects)[:, None]
        self._made: dict[Condition, torch.Tensor] = {}

    def buffers(self) -> dict[str, torch.Tensor]:
        """Return the values of the model's buffers, float32, by their names in it."""
        evidence, place = self._evidence, {name: i for i, name in enumerate(self._contexts)}
        common = [evidence.common(place[name]) for name in self._vocabulary.contexts] + [None]
        nothing = np.zeros_like(evidence.middle)
        per_unit = torch.from_numpy(1 / evidence.unit)
        further = [None] * (len(self._vocabulary.embedded) + 1)
        elsewhere = [evidence.common_elsewhere(None, label) for label in (*self._trained, *further)]
        found = {
            "effect": torch.einsum("s,lsg->lg", torch.from_numpy(self.shares[:3]), self._parts) * per_unit,
            "elsewhere": torch.from_numpy(np.stack(elsewhere)) * per_unit,
            "common": torch.from_numpy(np.stack([nothing if row is None else row for row in common])) * per_unit,
            "known": np.array([row is not None for row in common]),
            "middle": torch.from_numpy(evidence.middle) * per_unit,
            "shares": self.shares[3:],
        }
        return {f"linear_start.{name}": torch.as_tensor(values).float() for name, values in found.items()}

    def control_mean(self, context: int) -> torch.Tensor:
        """Return the mean of the control cells of a context that predictions are made from, log1p, float32 [G]."""
        return torch.from_numpy(self._controls[context]).float()

    def delta(self, context: int, label: int) -> torch.Tensor:
        """Return the shift that a set of a condition starts from, by the store's indices, log1p, float32 [G]."""
        evidence, mean = self._evidence, self._controls[context]
        if label == self._control:
            return torch.zeros(len(mean))
        if (context, label) not in self._made:
            level = (evidence.level[context] + self.shares @ self._features(context, label)) / evidence.unit
            moved = from_fold(torch.from_numpy(level), self.pseudocount)
            self._made[context, label] = (moved - torch.from_numpy(mean)).float()
        return self._made[context, label]

    def _parts_of(self, effect: np.ndarray, shared: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Divide an effect into three parts [3, G]: what others share, the rest shrunk, and what is clear of its noise.

        The rest is whole in the third part where a gene's is clear of its error. Elsewhere it is in the second, shrunk
        by the share of its squared length that is error (James and Stein 1961, positive part).

        Parameters
        ----------
        effect, shared
            An effect, and what of it lies in the directions that other perturbations share, [G].
        error
            Variance of each gene's mean [G].
        """
        own = effect - shared
        clear = np.square(own) > self.clear**2 * error
        length, noise = np.square(own).sum(), error.sum()
        shrunk = own * ((length - noise) / length if length > noise else 0.0)
        return np.stack([shared, np.where(clear, 0.0, shrunk), np.where(clear, own, 0.0)])

    def _fit(self) -> np.ndarray:
        """Solve least squares over genes and the conditions whose perturbation another context has, then set a length.

        A ridge draws it to ``plain``, which is also what is left of it where the data determine nothing. Least squares
        gives shifts that are too small, the more so the less it knows: it is best on squared error and wrong in how
        many genes move. What is predicted has a size between that and the real one; see ``length``.
        """
        evidence = self._evidence
        pairs = [condition for condition in evidence.observed if len(evidence.labels[condition[1]]) > 1]
        if not pairs:
            return self.plain
        pairs = pairs[:: -(-len(pairs) // FITTED_CONDITIONS)]
        features = np.stack([self._features(*pair) for pair in pairs])
        observed = np.stack([evidence.observed[pair] for pair in pairs])
        weights = np.array([evidence.weight[pair] for pair in pairs])
        normal = np.einsum("c,csg,ctg->st", weights, features, features)
        right = np.einsum("c,csg,cg->s", weights, features, observed - self.plain @ features)
        normal += self.prior_conditions / len(pairs) * np.diag(np.diag(normal))
        shares = self.plain + np.linalg.lstsq(normal, right, rcond=1e-8)[0]
        noise = [evidence.noise[pair].sum() + evidence.target_noise[pair[0]].sum() for pair in pairs]
        real = weights @ (np.square(observed).sum(1) - noise)
        fitted = weights @ np.square(shares @ features).sum(1)
        return shares * max(real / fitted, 1.0) ** (self.length / 2) if fitted > 0 else shares

    def _features(self, context: int, label: int) -> np.ndarray:
        """Return the effect elsewhere in its parts, what is common here, and the way to the mean context, [5, G]."""
        evidence = self._evidence
        common = evidence.common(context, label)
        if common is None:
            common = evidence.common_elsewhere(context, label)
        pull = evidence.middle - evidence.level[context]
        return np.stack([*self._effect_elsewhere(context, label), common, pull])

    def _effect_elsewhere(self, context: int, label: int) -> np.ndarray:
        """Return a label's effect in other contexts [3, G]; where none has it, what is known of its perturbations."""
        shown = context in self._evidence.labels.get(label, [])
        if shown and len(self._evidence.labels[label]) > 1:
            return self._effect(label, without=context)
        name = self._labels[label]
        return combine(self._parts, rows_of(name, self._vocabulary, (name,) if shown else ())).numpy()

    def _effect(self, label: int, without: int | None = None) -> np.ndarray:
        effect, error = self._evidence.effect(label, without)
        directions = self._directions[label]
        shared = effect @ directions.T @ directions if len(directions) else effect
        return self._parts_of(effect, shared, error)

    def _zero_shot(self, effects: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Predict the effects of tokens that only have an embedding; that of a combination is the sum of its names'."""
        rows = [[row for row, _ in self._vocabulary.token_rows(self._labels[label])] for label in self._trained]
        known = np.stack([embeddings[found].sum(0) for found in rows]).astype(np.float64)
        return effects_from_embeddings(known, effects, embeddings[len(self._vocabulary.perturbations) :])
