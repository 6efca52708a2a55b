"""Keep a fitted linear start for the length of a training, in files that all processes of a run share."""

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.apply import FEATURES, LinearStart
from bionemo.scale.linear_start.fit import Fit
from bionemo.scale.linear_start.means import Condition, ConditionMeans
from bionemo.scale.linear_start.shared_arrays import Arrays, shared_arrays
from bionemo.screens.controls import ControlRole


class FittedLinearStart:
    """A `FittedLinearStart` holds the model's buffers, and what is known of each training condition from the others.

    What is known of a condition that is held out the model itself says. The arguments up to `embeddings` are those of
    `Fit`. The folder holds files of all that is fitted, which all processes of a run share: one of them fits. Without a
    folder it is in memory. With `evidence` the features of training conditions are kept, for a network that is given
    them. Another `fit` serves comparisons only.
    """

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
        fit: type[Fit] = Fit,
    ):
        self._means, self._contexts, self._labels, self._vocabulary = means, contexts, labels, vocabulary
        self._controls, self._half_weight = means.control[ControlRole.INPUT], fit.half_weight
        self._model = LinearStart(vocabulary, fit.pseudocount)
        self._row = {condition: row for row, condition in enumerate(means.mean)}
        tables: dict[str, Any] = {
            name: (tuple(values.shape), np.float32) for name, values in self._model.named_buffers()
        }
        tables["base"] = (len(contexts), len(vocabulary.genes)), np.float32
        if evidence:  # in half precision: a file of them may be gigabytes
            tables["features"] = (len(self._row), FEATURES, len(vocabulary.genes)), np.float16

        def fill(arrays: Arrays) -> None:
            fit(means, contexts, labels, vocabulary, embeddings).fill(arrays)

        found = shared_arrays(folder, self._key(tables, embeddings) if folder else "", tables, fill)
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
        return shift - self.base_KG[context], cells / (cells + self._half_weight)

    def delta(self, context: int, label: int) -> torch.Tensor:
        """Return the shift of a condition, by the store's indices, log1p, float32 [G]."""
        return self._model.shift(self.features(context, label)[None])[0][0]

    def _key(self, tables: Iterable[str], embeddings: np.ndarray | None) -> str:
        """Return what the fit follows from, and which tables it fills, in a few letters."""
        said = [self._means.key, self._vocabulary.to_dict(), version("bionemo-scale"), *tables]
        known = hashlib.sha256(json.dumps(said).encode())
        known.update(b"" if embeddings is None else np.ascontiguousarray(embeddings).tobytes())
        return known.hexdigest()[:16]
