"""Fit the linear start to training conditions, each of them predicted from the others."""

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.apply import DIRECTIONS, FEATURES, LinearStart, combine, interaction_rank, rows_of
from bionemo.scale.linear_start.evidence import Evidence, Shown, principal_directions, shared_directions
from bionemo.scale.linear_start.fold_change import PSEUDOCOUNT
from bionemo.scale.linear_start.interaction import interactions, share_no_batch
from bionemo.scale.linear_start.means import Condition, ConditionMeans, base_of
from bionemo.scale.linear_start.shared_arrays import Arrays, shared_arrays
from bionemo.scale.linear_start.zero_shot import effects_from_embeddings
from bionemo.screens.controls import ControlRole

OVERSAMPLING = 4
"""Random combinations of interactions for each direction that a model keeps of them."""


class FittedLinearStart:
    """A `FittedLinearStart` holds the model's buffers, and what is known of each training condition from the others.

    What is known of a training condition never contains its own cells: its effect is that of the other contexts, the
    directions that effects share are those of other perturbations, and what its context's perturbations have in common,
    or deviate by, is taken over the others. What is known of a condition that is held out the model itself says.

    The `means` are those of the training conditions, `contexts` and `labels` the store's names. From embeddings of the
    vocabulary's tokens [tokens, E], for a model that takes them, come the effects of perturbations that training has
    not shown. The folder holds files of all that is fitted, which all processes of a run share; without one it is in
    memory. With `evidence` the features of training conditions are kept, for a network that is given them.
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
        folder: Path | None = None,
        *,
        evidence: bool = False,
    ):
        self._means, self._contexts, self._labels, self._vocabulary = means, contexts, labels, vocabulary
        self._embeddings, self._controls = embeddings, means.control[ControlRole.INPUT]
        index = {label: i for i, label in enumerate(labels)}
        self._trained = [index[label] for label in vocabulary.start_labels]
        self._model = LinearStart(vocabulary, self.pseudocount)
        self._row = {condition: row for row, condition in enumerate(means.mean)}
        tables: dict[str, Any] = {
            name: (tuple(values.shape), np.float32) for name, values in self._model.named_buffers()
        }
        tables["base"] = (len(contexts), len(vocabulary.genes)), np.float32
        if evidence:  # in half precision: a file of them may be gigabytes
            tables["features"] = (len(self._row), FEATURES, len(vocabulary.genes)), np.float16
        found = shared_arrays(folder, self._key(tables) if folder else "", tables, self._fill)
        self._features_of = found.pop("features", None)
        self.base_KG = torch.from_numpy(np.array(found.pop("base")))
        self._model.load_state_dict({name: torch.from_numpy(np.array(found[name])) for name in found})
        self._made: dict[Condition, torch.Tensor] = {}

    def buffers(self) -> dict[str, torch.Tensor]:
        """Return the values of the model's buffers, float32, by their names in it."""
        return {f"linear_start.{name}": values for name, values in self._model.named_buffers()}

    def control_mean(self, context: int) -> torch.Tensor:
        """Return the mean of the control cells of a context that predictions are made from, log1p, float32 [G]."""
        return torch.from_numpy(self._controls[context]).float()

    @property
    def shares(self) -> np.ndarray:
        """Return the shares of an effect in three parts, what is common, pull and interaction: s_1 to s_3, b, a, c."""
        return self._model.shares.double().numpy()

    def features(self, context: int, label: int) -> torch.Tensor:
        """Return what is known of a condition from elsewhere, by the store's indices, float32 [F, G]."""
        if self._features_of is not None and (context, label) in self._row:
            return torch.from_numpy(self._features_of[self._row[context, label]].astype(np.float32))
        if (context, label) not in self._made:
            names, name = self._vocabulary.contexts, self._contexts[context]
            place, label_name = torch.tensor([names.index(name) if name in names else -1]), self._labels[label]
            mean_1G = self.control_mean(context)[None]
            self._made[context, label] = self._model.features([label_name], place, mean_1G, self._vocabulary)[0]
        return self._made[context, label]

    def observed(self, context: int, label: int) -> tuple[torch.Tensor, float]:
        """Return the shift of a training condition from controls of the role target, log1p [G], and its weight.

        That of a control set is 0, and a condition that is held out has the weight 0.
        """
        if (context, label) not in self._row:
            return torch.zeros(len(self._vocabulary.genes)), float(self._labels[label] == self._vocabulary.control)
        cells = self._means.cells[context, label]
        shift = torch.from_numpy(self._means.mean[context, label] - self._controls[context]).float()
        return shift - self.base_KG[context], cells / (cells + self.half_weight)

    def delta(self, context: int, label: int) -> torch.Tensor:
        """Return the shift of a condition, by the store's indices, log1p, float32 [G]."""
        return self._model.shift(self.features(context, label)[None])[0][0]

    def _fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Solve least squares over genes and the conditions whose perturbation another context has, then set a length.

        A ridge draws it to ``plain``, which is also what is left of it where the data determine nothing. Least squares
        gives shifts that are too small, the more so the less it knows: it is best on squared error and wrong in how
        many genes move. What is predicted has a size between that and the real one; see ``length``. Return the shares
        [6], and a basis of the interactions [R, G] (randomised range finder; Halko et al. 2011).
        """
        evidence, count, real = self._evidence, 0, 0.0
        normal, right = np.zeros((len(self.plain), len(self.plain))), np.zeros(len(self.plain))
        rank, rng = interaction_rank(self._vocabulary), np.random.default_rng(0)
        sketch_SG = np.zeros((min(OVERSAMPLING * rank, len(evidence.middle)), len(evidence.middle)), dtype=np.float32)
        for context in evidence.contexts:
            shown, known, features, interaction_LG = self._features(context)
            sketch_SG += rng.normal(size=(len(sketch_SG), len(interaction_LG))).astype(np.float32) @ interaction_LG
            weight = np.where(known, shown.weight, 0.0)
            linear = features[:, : len(self.plain)]
            moments = np.einsum("c,csg,ctg->st", weight, linear, linear, dtype=np.float64)
            normal += moments
            right += np.einsum("c,csg,cg->s", weight, linear, shown.observed, dtype=np.float64) - moments @ self.plain
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

    def _noise_in_common(self, context: int, shown: Shown, known: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Return as much of what a context's conditions have in common beyond their prediction as is noise, log1p [G].

        Their shifts are measured against the same control cells, whose noise they share. Of the mean residual the share
        of its squared length that is noise is taken for it (James and Stein 1961, positive part).
        """
        weight = np.where(known, shown.weight, 0.0)
        if not (total := weight.sum()):
            return np.zeros(features.shape[2])
        conditions = [(context, self._trained[row]) for row in shown.rows]
        observed_nG = np.stack([self._means.mean[condition] for condition in conditions])
        observed_nG = observed_nG - self._means.control[ControlRole.TARGET][context]
        predicted_nG = self._model.shift(torch.from_numpy(features))[0].double().numpy()
        common = weight @ (observed_nG - predicted_nG) / total
        own = np.square(weight / total) @ np.stack([self._means.noise[condition] for condition in conditions])
        noise = (own + self._means.control_noise[ControlRole.TARGET][context]).sum()
        length = np.square(common).sum()
        return common * min(1.0, noise / length) if length else common

    def _features(self, context: int) -> tuple[Shown, np.ndarray, np.ndarray, np.ndarray]:
        """Return what a context's n labels are predicted from, without themselves.

        It is what the context shows; which of its labels another context shows too, bool [n]; their effects elsewhere
        in three parts, what is common here, the way to the mean context, the interaction, the standard error of the
        effect and the level of the controls [n, F, G]; the interactions of all labels with this context [L, G].
        """
        evidence = self._evidence
        shown = evidence.shown(context)
        effect_LG, error_LG, known_L = evidence.effects(shown)
        rows, known = shown.rows, known_L[shown.rows]
        features = np.empty((len(rows), FEATURES, effect_LG.shape[1]), dtype=np.float32)
        features[:, :3] = self._divided(effect_LG, error_LG, rows)
        features[:, 6] = np.sqrt(error_LG[rows])
        for place in np.flatnonzero(~known):  # what is known of the label's perturbations
            name = self._vocabulary.start_labels[rows[place]]
            found = rows_of(name, self._vocabulary, (name,))
            if all(row == len(self._vocabulary.start_rows) for pairs in found for row, _ in pairs):
                # Nothing is: the effect itself is told, as it will be in other contexts. A network that was told of no
                # effect would learn all of it, and then add it to a start that has it.
                found = rows_of(name, self._vocabulary)
            features[place, :3] = combine(self._parts, found).numpy()
            features[place, 6] = combine(self._variance, found).sqrt().numpy()
        common = shown.common_of_others
        features[:, 3] = evidence.common_elsewhere[rows] if common is None else common
        features[:, 4] = evidence.middle - evidence.level[context]
        interaction_LG = np.zeros_like(effect_LG)
        if self.interacts:
            interaction_LG = interactions(shown, effect_LG, known_L, self._apart)
        features[:, 5] = interaction_LG[rows]
        features[:, 7] = evidence.level[context]
        return shown, known, features, interaction_LG

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

    def _key(self, tables: Iterable[str]) -> str:
        """Return what the fit follows from, and which tables it fills, in a few letters."""
        said = [self._means.key, self._vocabulary.to_dict(), version("bionemo-scale"), *tables]
        known = hashlib.sha256(json.dumps(said).encode())
        known.update(b"" if self._embeddings is None else np.ascontiguousarray(self._embeddings).tobytes())
        return known.hexdigest()[:16]

    def _fill(self, arrays: Arrays) -> None:
        """Fit, and work out the model's buffers and the features of training conditions."""
        vocabulary, trained = self._vocabulary, len(self._trained)
        self._evidence = evidence = Evidence(self._means, self._trained, self.half_weight, self.pseudocount)
        self._directions = shared_directions(evidence.mean_shift, self.components)
        self._apart = share_no_batch([self._means.batches[label] for label in self._trained])
        further = np.zeros((len(vocabulary.embedded) + 1, 3, len(vocabulary.genes)), dtype=np.float32)
        effect_LG, error_LG, _ = evidence.effects()
        self._parts = torch.from_numpy(np.concatenate([self._divided(effect_LG, error_LG), further]))
        self._variance = torch.from_numpy(np.concatenate([error_LG, further[:, 0]]))
        shares, basis_RG = self._fit()
        if self._embeddings is not None and vocabulary.embedded:
            # Divided by what the parts are multiplied by: a regression has shrunk it already.
            effects = self._zero_shot(self._parts[:trained].sum(1).numpy(), self._embeddings) / shares[:3].sum()
            self._parts[trained:-1] = torch.from_numpy(effects)[:, None]
        self._model.shares.copy_(torch.from_numpy(shares))
        self._model.unit.copy_(torch.from_numpy(evidence.unit))
        arrays["base"][:] = base_of(self._means.control, *arrays["base"].shape)
        place, squares, count = {name: i for i, name in enumerate(vocabulary.contexts)}, np.zeros(FEATURES), 0
        per_unit = 1 / evidence.unit
        for context in evidence.contexts:
            shown, known, features, interaction_LG = self._features(context)
            arrays["base"][context] += self._noise_in_common(context, shown, known, features)
            row = place[self._contexts[context]]
            squares += np.square(features).mean(2, dtype=np.float64).sum(0)
            count += len(features)
            if "features" in arrays:
                arrays["features"][[self._row[context, self._trained[label]] for label in shown.rows]] = features
            arrays["interaction"][row, :trained] = interaction_LG @ basis_RG.T
            if shown.common is not None:
                arrays["known"][row] = 1.0
                arrays["common"][row] = shown.common * per_unit
        arrays["elsewhere"][:trained] = evidence.common_elsewhere[:-1] * per_unit
        arrays["elsewhere"][trained:] = evidence.common_elsewhere[-1] * per_unit
        arrays["parts"][:] = self._parts.numpy() * per_unit
        arrays["variance"][:] = self._variance.numpy() * np.square(per_unit)
        arrays["unit"][:] = evidence.unit
        directions = principal_directions(evidence.mean_shift, DIRECTIONS)
        arrays["directions"][: len(directions)] = directions
        arrays["size"][:] = np.where(squares > 0, np.sqrt(squares / count), 1.0)
        arrays["basis"][:] = basis_RG * per_unit
        arrays["middle"][:] = evidence.middle * per_unit
        arrays["shares"][:] = shares

    def _zero_shot(self, effects: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Predict the effects of tokens that only have an embedding; that of a combination is the sum of its names'."""
        vocabulary = self._vocabulary
        rows = [[row for row, _ in vocabulary.token_rows(label)] for label in vocabulary.start_labels]
        known = np.stack([embeddings[found].sum(0) for found in rows]).astype(np.float64)
        return effects_from_embeddings(known, effects, embeddings[len(vocabulary.perturbations) :])
