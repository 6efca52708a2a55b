"""Fit the linear start to training conditions, each of them predicted from the others.

Axes: n labels that a context shows, L training labels, G genes, F features, R directions of interactions.
"""

from dataclasses import dataclass

import numpy as np
import torch

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.apply import (
    DIRECTIONS,
    FEATURES,
    PARTS,
    TERMS,
    Feature,
    combine,
    interaction_rank,
    rows_of,
    shift_of,
)
from bionemo.scale.linear_start.evidence import Evidence, Shown, principal_directions, shared_directions
from bionemo.scale.linear_start.fold_change import PSEUDOCOUNT
from bionemo.scale.linear_start.interaction import interactions, share_no_batch
from bionemo.scale.linear_start.means import ConditionMeans, base_of
from bionemo.scale.linear_start.shared_arrays import Arrays
from bionemo.scale.linear_start.zero_shot import effects_from_embeddings
from bionemo.screens.controls import ControlRole

OVERSAMPLING = 4
"""Random combinations of interactions for each direction that a model keeps of them."""


@dataclass(frozen=True)
class Known:
    """A `Known` is what is known of the labels that one context shows, of each without its own cells."""

    shown: Shown
    elsewhere: np.ndarray
    """Which of the labels another context shows too, bool [n]."""
    features: np.ndarray
    """Numbers that they are predicted from, by `Feature`, on the scale of `Evidence`, float32 [n, F, G]."""
    interactions: np.ndarray
    """The interactions of all training labels with this context, on the same scale, float32 [L, G]."""

    @property
    def weight(self) -> np.ndarray:
        """Return what each label counts in a fit [n]: nothing, where no other context shows it."""
        return np.where(self.elsewhere, self.shown.weight, 0.0)


class Fit:
    """A `Fit` solves for the six numbers of a linear start, and works out all that a model keeps of it.

    What is known of a training condition never contains its own cells: its effect is that of the other contexts, the
    directions that effects share are those of other perturbations, and what its context's perturbations have in common,
    or deviate by, is taken over the others.

    The `means` are those of the training conditions, `contexts` and `labels` the store's names. From embeddings of the
    vocabulary's tokens [tokens, E], for a model that takes them, come the effects of perturbations that training has
    not shown. `shares` are the six numbers, and `basis` the directions that the model keeps interactions in [R, G].
    """

    plain = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    """The transferred delta: all parts of an effect, all that is common, no pull and no interaction."""
    clear = 3.0
    """Standard errors beyond which what a perturbation does to a gene is not taken for noise."""
    prior_conditions = 5.0
    """``plain`` counts as much as so many training conditions: with a handful of contexts the fit alone misleads."""
    half_weight = 100
    """Cells with which a condition weighs half of what it would weigh with any number of them."""
    components = DIRECTIONS
    """Directions of expression that the effects of perturbations are taken to share."""
    length = 0.65
    """Length of shifts, on the way from that of least squares (0) to that of real effects (1), in logarithms."""
    pseudocount = PSEUDOCOUNT
    """Pseudocount of the scale; a model knows no other, so another one serves comparisons only."""
    interacts = True
    """Whether there is an interaction at all; without one it serves comparisons only."""

    def __init__(
        self,
        means: ConditionMeans,
        contexts: list[str],
        labels: list[str],
        vocabulary: Vocabulary,
        embeddings: np.ndarray | None = None,
    ):
        self._means, self._contexts, self._vocabulary = means, contexts, vocabulary
        index = {label: i for i, label in enumerate(labels)}
        self._trained = [index[label] for label in vocabulary.start_labels]
        self.evidence = Evidence(means, self._trained, self.half_weight, self.pseudocount)
        self._directions = shared_directions(self.evidence.mean_shift, self.components)
        self._apart = share_no_batch([means.batches[label] for label in self._trained])
        # Rows of labels that training shows, then those of embedded ones, then that of what nothing is known of.
        further = np.zeros((len(vocabulary.embedded) + 1, PARTS, len(vocabulary.genes)), dtype=np.float32)
        effect_LG, error_LG, _ = self.evidence.effects()
        self._parts = torch.from_numpy(np.concatenate([self._divided(effect_LG, error_LG), further]))
        self._variance = torch.from_numpy(np.concatenate([error_LG, further[:, 0]]))
        self.shares, self.basis = self._solve()
        if embeddings is not None and vocabulary.embedded:
            # Divided by what the parts are multiplied by: a regression has shrunk it already.
            known = self._parts[: len(self._trained)].sum(1).numpy()
            effects = self._zero_shot(known, embeddings) / self.shares[:PARTS].sum()
            self._parts[len(self._trained) : -1] = torch.from_numpy(effects)[:, None]

    def _solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Solve least squares over genes and the conditions whose perturbation another context has, then set a length.

        A ridge draws it to ``plain``, which is also what is left of it where the data determine nothing. Least squares
        gives shifts that are too small, the more so the less it knows: it is best on squared error and wrong in how
        many genes move. What is predicted has a size between that and the real one; see ``length``. Return the shares
        [6], and a basis of the interactions [R, G] (randomised range finder; Halko et al. 2011).
        """
        evidence, count, real = self.evidence, 0, 0.0
        normal, right = np.zeros((len(self.plain), len(self.plain))), np.zeros(len(self.plain))
        rank, rng = interaction_rank(self._vocabulary), np.random.default_rng(0)
        sketch_SG = np.zeros((min(OVERSAMPLING * rank, len(evidence.middle)), len(evidence.middle)), dtype=np.float32)
        for context in evidence.contexts:
            known = self.known(context)
            shown, every_LG = known.shown, known.interactions
            sketch_SG += rng.normal(size=(len(sketch_SG), len(every_LG))).astype(np.float32) @ every_LG
            weight, linear = known.weight, known.features[:, :TERMS]
            moments = np.einsum("c,csg,ctg->st", weight, linear, linear, dtype=np.float64)
            normal += moments
            right += np.einsum("c,csg,cg->s", weight, linear, shown.observed, dtype=np.float64) - moments @ self.plain
            noise = shown.noise.sum(1, dtype=np.float64) + evidence.target_noise[context].sum()
            real += weight @ (np.einsum("cg,cg->c", shown.observed, shown.observed, dtype=np.float64) - noise)
            count += known.elsewhere.sum()
        basis_RG = np.linalg.svd(sketch_SG, full_matrices=False)[2][:rank].astype(np.float32)
        if not count:
            return self.plain, basis_RG
        ridge = self.prior_conditions / count * np.diag(np.diag(normal))
        shares = self.plain + np.linalg.lstsq(normal + ridge, right, rcond=1e-8)[0]
        fitted = shares @ normal @ shares
        return shares * (max(real / fitted, 1.0) ** (self.length / 2) if fitted > 0 else 1.0), basis_RG

    def known(self, context: int) -> Known:
        """Return what a context's labels are predicted from, each without its own cells."""
        evidence = self.evidence
        shown = evidence.shown(context)
        effect_LG, error_LG, elsewhere_L = evidence.effects(shown)
        rows, elsewhere = shown.rows, elsewhere_L[shown.rows]
        features = np.empty((len(rows), FEATURES, effect_LG.shape[1]), dtype=np.float32)
        features[:, :PARTS] = self._divided(effect_LG, error_LG, rows)
        features[:, Feature.ERROR] = np.sqrt(error_LG[rows])
        for place in np.flatnonzero(~elsewhere):  # what is known of the label's perturbations
            name = self._vocabulary.start_labels[rows[place]]
            found = rows_of(name, self._vocabulary, (name,))
            if all(row == len(self._vocabulary.start_rows) for pairs in found for row, _ in pairs):
                # Nothing is: the effect itself is told, as it will be in other contexts. A network that was told of no
                # effect would learn all of it, and then add it to a start that has it.
                found = rows_of(name, self._vocabulary)
            features[place, :PARTS] = combine(self._parts, found).numpy()
            features[place, Feature.ERROR] = combine(self._variance, found).sqrt().numpy()
        common = shown.common_of_others
        features[:, Feature.COMMON] = evidence.common_elsewhere[rows] if common is None else common
        features[:, Feature.PULL] = evidence.middle - evidence.level[context]
        interaction_LG = np.zeros_like(effect_LG)
        if self.interacts:
            interaction_LG = interactions(shown, effect_LG, elsewhere_L, self._apart)
        features[:, Feature.INTERACTION] = interaction_LG[rows]
        features[:, Feature.LEVEL] = evidence.level[context]
        return Known(shown, elsewhere, features, interaction_LG)

    def noise_in_common(self, context: int, known: Known) -> np.ndarray:
        """Return as much of what a context's conditions have in common beyond their prediction as is noise, log1p [G].

        Their shifts are measured against the same control cells, whose noise they share. Of the mean residual the share
        of its squared length that is noise is taken for it (James and Stein 1961, positive part).
        """
        weight = known.weight
        if not (total := weight.sum()):
            return np.zeros(known.features.shape[2])
        conditions = [(context, self._trained[row]) for row in known.shown.rows]
        observed_nG = np.stack([self._means.mean[condition] for condition in conditions])
        observed_nG = observed_nG - self._means.control[ControlRole.TARGET][context]
        shares, unit = (torch.from_numpy(values).float() for values in (self.shares, self.evidence.unit))
        shift_nG, _ = shift_of(torch.from_numpy(known.features), shares, unit, self.pseudocount)
        common = weight @ (observed_nG - shift_nG.double().numpy()) / total
        own = np.square(weight / total) @ np.stack([self._means.noise[condition] for condition in conditions])
        noise = (own + self._means.control_noise[ControlRole.TARGET][context]).sum()
        length = np.square(common).sum()
        return common * min(1.0, noise / length) if length else common

    def fill(self, arrays: Arrays) -> None:
        """Write the buffers of a `LinearStart`, the ``base``, and ``features`` where these are asked for.

        The base of each context is what training takes from its perturbed cells, log1p [K, G]. The features are those
        of the training conditions, in the order of the means [conditions, F, G].
        """
        evidence, vocabulary, trained = self.evidence, self._vocabulary, len(self._trained)
        arrays["base"][:] = base_of(self._means.control, *arrays["base"].shape)
        place, squares, count = {name: i for i, name in enumerate(vocabulary.contexts)}, np.zeros(FEATURES), 0
        row_of, per_unit = {condition: row for row, condition in enumerate(self._means.mean)}, 1 / evidence.unit
        for context in evidence.contexts:
            known = self.known(context)
            arrays["base"][context] += self.noise_in_common(context, known)
            row = place[self._contexts[context]]
            squares += np.square(known.features).mean(2, dtype=np.float64).sum(0)
            count += len(known.features)
            if "features" in arrays:
                conditions = [(context, self._trained[label]) for label in known.shown.rows]
                arrays["features"][[row_of[condition] for condition in conditions]] = known.features
            arrays["interaction"][row, :trained] = known.interactions @ self.basis.T
            if known.shown.common is not None:
                arrays["known"][row] = 1.0
                arrays["common"][row] = known.shown.common * per_unit
        arrays["elsewhere"][:trained] = evidence.common_elsewhere[:-1] * per_unit
        arrays["elsewhere"][trained:] = evidence.common_elsewhere[-1] * per_unit
        arrays["parts"][:] = self._parts.numpy() * per_unit
        arrays["variance"][:] = self._variance.numpy() * np.square(per_unit)
        arrays["unit"][:] = evidence.unit
        directions = principal_directions(evidence.mean_shift, DIRECTIONS)
        arrays["directions"][: len(directions)] = directions
        arrays["size"][:] = np.where(squares > 0, np.sqrt(squares / count), 1.0)
        arrays["basis"][:] = self.basis * per_unit
        arrays["middle"][:] = evidence.middle * per_unit
        arrays["shares"][:] = self.shares

    def _divided(self, effect_LG: np.ndarray, error_LG: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Divide the effects of labels, or of some rows of them, into three parts [n, 3, G]; see `parts_of`."""
        rows = np.arange(len(effect_LG)) if rows is None else rows
        parts = np.empty((len(rows), 3, effect_LG.shape[1]), dtype=np.float32)
        for group, directions in enumerate(self._directions):
            member = np.flatnonzero(rows % len(self._directions) == group)
            effect = effect_LG[rows[member]]
            shared = effect @ directions.T @ directions if len(directions) else effect
            parts[member] = self.parts_of(effect, shared, error_LG[rows[member]])
        return parts

    @classmethod
    def parts_of(cls, effect: np.ndarray, shared: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Divide effects [n, G] in three [n, 3, G]: what others share, the rest shrunk, and what is clear of its noise.

        `shared` is what of them lies in the directions that other perturbations share, and `error` the variance of each
        gene's mean. The rest is whole in the third part where a gene's is clear of its error. Elsewhere it is in the
        second, shrunk by the share of its squared length that is error (James and Stein 1961, positive part).
        """
        own = effect - shared
        clear = np.square(own) > cls.clear**2 * error
        length, noise = (values.sum(1, keepdims=True) for values in (np.square(own), error))
        shrink = np.where(length > noise, (length - noise) / np.where(length > 0, length, 1.0), 0.0)
        return np.stack([shared, np.where(clear, 0.0, own * shrink), np.where(clear, own, 0.0)], axis=1)

    def _zero_shot(self, effects: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Predict the effects of tokens that only have an embedding; that of a combination is the sum of its names'."""
        vocabulary = self._vocabulary
        rows = [[row for row, _ in vocabulary.token_rows(label)] for label in vocabulary.start_labels]
        known = np.stack([embeddings[found].sum(0) for found in rows]).astype(np.float64)
        return effects_from_embeddings(known, effects, embeddings[len(vocabulary.perturbations) :])
