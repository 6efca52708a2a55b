"""Fit the linear start to training conditions, each of them predicted from the others."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.apply import LinearStart, combine, interaction_rank, rows_of
from bionemo.scale.linear_start.evidence import Evidence, Shown, shared_directions
from bionemo.scale.linear_start.fold_change import PSEUDOCOUNT, from_fold
from bionemo.scale.linear_start.interaction import interactions, share_no_batch
from bionemo.scale.linear_start.means import Condition, ConditionMeans
from bionemo.scale.linear_start.shared_arrays import Arrays, shared_arrays
from bionemo.scale.linear_start.zero_shot import effects_from_embeddings
from bionemo.screens.controls import ControlRole

OVERSAMPLING = 4
"""Random combinations of interactions for each direction that a model keeps of them."""


class FittedLinearStart:
    """A `FittedLinearStart` holds the model's buffers, and the shift that each training set starts from.

    What a training condition starts from never contains its own cells: its effect is that of the other contexts, the
    directions that effects share are those of other perturbations, and what its context's perturbations have in common,
    or deviate by, is taken over the others. A condition that is held out starts from what the model itself says.

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
    folder
        Folder for files of all that is fitted, which all processes of a run share; without one it is in memory.
    """

    plain = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    """The transferred delta: all parts of an effect, all that is common, no pull and no interaction."""
    clear = 3.0
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
    interacts = True
    """Whether there is an interaction at all; without one it serves comparisons only."""

    def __init__(
        self,
        means: ConditionMeans,
        contexts: list[str],
        labels: list[str],
        vocabulary: Vocabulary,
        embeddings: np.ndarray | None = None,
        folder: Path | None = None,
    ):
        self._means, self._contexts, self._labels, self._vocabulary = means, contexts, labels, vocabulary
        self._embeddings, self._controls = embeddings, means.control[ControlRole.INPUT]
        index = {label: i for i, label in enumerate(labels)}
        self._trained = [index[label] for label in vocabulary.start_labels]
        self._model = LinearStart(vocabulary, self.pseudocount)
        self._row = {condition: row for row, condition in enumerate(means.mean)}
        tables = {name: (tuple(values.shape), np.float32) for name, values in self._model.named_buffers()}
        rows = {
            "fitted_shares": ((len(self.plain),), np.float64),
            "shifts": ((len(self._row), len(vocabulary.genes)), np.float32),
        }
        found = shared_arrays(folder, self._key() if folder else "", tables | rows, self._fill)
        self.shares = np.array(found["fitted_shares"])
        """Shares of an effect in three parts, of what is common, the pull and the interaction: s_1 to s_3, b, a, c."""
        self._shifts = found["shifts"]
        self._model.load_state_dict({name: torch.from_numpy(np.array(found[name])) for name in tables})
        self._made: dict[Condition, torch.Tensor] = {}

    def buffers(self) -> dict[str, torch.Tensor]:
        """Return the values of the model's buffers, float32, by their names in it."""
        return {f"linear_start.{name}": values for name, values in self._model.named_buffers()}

    def control_mean(self, context: int) -> torch.Tensor:
        """Return the mean of the control cells of a context that predictions are made from, log1p, float32 [G]."""
        return torch.from_numpy(self._controls[context]).float()

    def delta(self, context: int, label: int) -> torch.Tensor:
        """Return the shift that a set of a condition starts from, by the store's indices, log1p, float32 [G]."""
        if (context, label) in self._row:
            return torch.from_numpy(np.array(self._shifts[self._row[context, label]]))
        if (context, label) not in self._made:
            names, name = self._vocabulary.contexts, self._contexts[context]
            place = torch.tensor([names.index(name) if name in names else -1])
            mean_1G = self.control_mean(context)[None]
            self._made[context, label] = self._model.delta([self._labels[label]], place, mean_1G, self._vocabulary)[0]
        return self._made[context, label]

    def _fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Solve least squares over genes and the conditions whose perturbation another context has, then set a length.

        A ridge draws it to ``plain``, which is also what is left of it where the data determine nothing. Least squares
        gives shifts that are too small, the more so the less it knows: it is best on squared error and wrong in how
        many genes move. What is predicted has a size between that and the real one; see ``length``.

        Returns
        -------
        tuple
            The shares [6], and a basis of the interactions [R, G] (randomised range finder; Halko et al. 2011).
        """
        evidence, count, real = self._evidence, 0, 0.0
        normal, right = np.zeros((len(self.plain), len(self.plain))), np.zeros(len(self.plain))
        rank, rng = interaction_rank(self._vocabulary), np.random.default_rng(0)
        sketch_SG = np.zeros((min(OVERSAMPLING * rank, len(evidence.middle)), len(evidence.middle)), dtype=np.float32)
        for context in evidence.contexts:
            shown, known, features, interaction_LG = self._features(context)
            sketch_SG += rng.normal(size=(len(sketch_SG), len(interaction_LG))).astype(np.float32) @ interaction_LG
            weight = np.where(known, shown.weight, 0.0)
            moments = np.einsum("c,csg,ctg->st", weight, features, features, dtype=np.float64)
            normal += moments
            right += np.einsum("c,csg,cg->s", weight, features, shown.observed, dtype=np.float64) - moments @ self.plain
            noise = shown.noise.sum(1, dtype=np.float64) + evidence.target_noise[context].sum()
            real += weight @ (np.einsum("cg,cg->c", shown.observed, shown.observed, dtype=np.float64) - noise)
            count += known.sum()
        basis_RG = np.linalg.svd(sketch_SG, full_matrices=False)[2][:rank].astype(np.float32)
        if not count:
            return self.plain, basis_RG
        ridge = self.prior_conditions / count * np.diag(np.diag(normal))
        shares = self.plain + np.linalg.lstsq(normal + ridge, right, rcond=1e-8)[0]
        fitted = shares @ normal @ shares
        return shares * (max(real / fitted, 1.0) ** (self.length / 2) if fitted > 0 else 1.0), basis_RG

    def _features(self, context: int) -> tuple[Shown, np.ndarray, np.ndarray, np.ndarray]:
        """Return what a context's n labels are predicted from, without themselves.

        Returns
        -------
        tuple
            What the context shows; which of its labels another context shows too, bool [n]; their effects elsewhere in
            three parts, what is common here, the way to the mean context, and the interaction [n, 6, G]; the
            interactions of all labels with this context [L, G].
        """
        evidence = self._evidence
        shown = evidence.shown(context)
        effect_LG, error_LG, known_L = evidence.effects(shown)
        rows, known = shown.rows, known_L[shown.rows]
        features = np.empty((len(rows), len(self.plain), effect_LG.shape[1]), dtype=np.float32)
        features[:, :3] = self._divided(effect_LG, error_LG, rows)
        for place in np.flatnonzero(~known):  # what is known of the label's perturbations
            name = self._vocabulary.start_labels[rows[place]]
            features[place, :3] = combine(self._parts, rows_of(name, self._vocabulary, (name,))).numpy()
        common = shown.common_of_others
        features[:, 3] = evidence.common_elsewhere[rows] if common is None else common
        features[:, 4] = evidence.middle - evidence.level[context]
        interaction_LG = np.zeros_like(effect_LG)
        if self.interacts:
            interaction_LG = interactions(shown, effect_LG, known_L, self._apart)
        features[:, 5] = interaction_LG[rows]
        return shown, known, features, interaction_LG

    def _divided(self, effect_LG: np.ndarray, error_LG: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Divide the effects of labels, or of some rows of them, into three parts [n, 3, G]; see `_parts_of`."""
        rows = np.arange(len(effect_LG)) if rows is None else rows
        parts = np.empty((len(rows), 3, effect_LG.shape[1]), dtype=np.float32)
        for group, directions in enumerate(self._directions):
            member = np.flatnonzero(rows % len(self._directions) == group)
            effect = effect_LG[rows[member]]
            shared = effect @ directions.T @ directions if len(directions) else effect
            parts[member] = self._parts_of(effect, shared, error_LG[rows[member]])
        return parts

    def _parts_of(self, effect: np.ndarray, shared: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Divide effects in three [n, 3, G]: what others share, the rest shrunk, and what is clear of its noise.

        The rest is whole in the third part where a gene's is clear of its error. Elsewhere it is in the second, shrunk
        by the share of its squared length that is error (James and Stein 1961, positive part).

        Parameters
        ----------
        effect, shared
            Effects, and what of them lies in the directions that other perturbations share, [n, G].
        error
            Variance of each gene's mean [n, G].
        """
        own = effect - shared
        clear = np.square(own) > self.clear**2 * error
        length, noise = (values.sum(1, keepdims=True) for values in (np.square(own), error))
        shrink = np.where(length > noise, (length - noise) / np.where(length > 0, length, 1.0), 0.0)
        return np.stack([shared, np.where(clear, 0.0, own * shrink), np.where(clear, own, 0.0)], axis=1)

    def _key(self) -> str:
        """Return what the fit follows from, in a few letters."""
        known = hashlib.sha256(
            json.dumps([self._means.key, self._vocabulary.to_dict(), version("bionemo-scale")]).encode()
        )
        known.update(b"" if self._embeddings is None else np.ascontiguousarray(self._embeddings).tobytes())
        return known.hexdigest()[:16]

    def _fill(self, arrays: Arrays) -> None:
        """Fit, and work out the model's buffers and the shift that each training condition starts from."""
        vocabulary, trained = self._vocabulary, len(self._trained)
        self._evidence = evidence = Evidence(self._means, self._trained, self.half_weight, self.pseudocount)
        self._directions = shared_directions(evidence.mean_shift, self.components)
        self._apart = share_no_batch([self._means.batches[label] for label in self._trained])
        further = np.zeros((len(vocabulary.embedded) + 1, 3, len(vocabulary.genes)), dtype=np.float32)
        self._parts = torch.from_numpy(np.concatenate([self._divided(*evidence.effects()[:2]), further]))
        shares, basis_RG = self._fit()
        if self._embeddings is not None and vocabulary.embedded:
            # Divided by what the parts are multiplied by: a regression has shrunk it already.
            effects = self._zero_shot(self._parts[:trained].sum(1).numpy(), self._embeddings) / shares[:3].sum()
            self._parts[trained:-1] = torch.from_numpy(effects)[:, None]
        place = {name: i for i, name in enumerate(vocabulary.contexts)}
        per_unit = 1 / evidence.unit
        for context in evidence.contexts:
            shown, _, features, interaction_LG = self._features(context)
            mean, row = self._controls[context], place[self._contexts[context]]
            for label, feature in zip(shown.rows, features, strict=True):
                level = torch.from_numpy((evidence.level[context] + shares @ feature) / evidence.unit)
                arrays["shifts"][self._row[context, self._trained[label]]] = (
                    from_fold(level, self.pseudocount).numpy() - mean
                )
            arrays["interaction"][row, :trained] = shares[5] * (interaction_LG @ basis_RG.T)
            if shown.common is not None:
                arrays["known"][row] = 1.0
                arrays["common"][row] = shown.common * per_unit
        arrays["elsewhere"][:trained] = evidence.common_elsewhere[:-1] * per_unit
        arrays["elsewhere"][trained:] = evidence.common_elsewhere[-1] * per_unit
        for row, parts in enumerate(self._parts.numpy()):
            arrays["effect"][row] = shares[:3] @ parts * per_unit
        arrays["basis"][:] = basis_RG * per_unit
        arrays["middle"][:] = evidence.middle * per_unit
        arrays["shares"][:] = shares[3:5]
        arrays["fitted_shares"][:] = shares

    def _zero_shot(self, effects: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Predict the effects of tokens that only have an embedding; that of a combination is the sum of its names'."""
        vocabulary = self._vocabulary
        rows = [[row for row, _ in vocabulary.token_rows(label)] for label in vocabulary.start_labels]
        known = np.stack([embeddings[found].sum(0) for found in rows]).astype(np.float64)
        return effects_from_embeddings(known, effects, embeddings[len(vocabulary.perturbations) :])
