"""Work out the rows of a linear start for a perturbation that it was not fitted to, from its shifts in some contexts.

Axes: L training labels, G genes, R directions of interactions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.apply import LinearStart
from bionemo.scale.linear_start.fit import Fit
from bionemo.scale.linear_start.fold_change import slope, to_fold
from bionemo.scale.linear_start.interaction import NOTHING


@dataclass(frozen=True, kw_only=True)
class Observed:
    """An `Observed` is what one context shows of a perturbation, log1p, float64 [G] each."""

    mean: np.ndarray
    noise: np.ndarray
    """Variance of the mean."""
    control: np.ndarray
    """Mean of the control cells."""
    cells: int


def new_row(start: LinearStart, observed: Mapping[str, Observed], vocabulary: Vocabulary) -> dict[str, torch.Tensor]:
    """Return the row of a perturbation in each table of a fitted linear start: table -> values.

    Its effect is the mean over the contexts that show it of what it does beyond what their perturbations have in
    common. Its interactions are those of the training labels that resemble it, as in :mod:`.interaction`. The names of
    its contexts are among the vocabulary's.
    """
    tables = {name: buffer.double().cpu().numpy() for name, buffer in start.named_buffers()}
    total, effect, error = 0.0, np.zeros(len(vocabulary.genes)), np.zeros(len(vocabulary.genes))
    for context, seen in observed.items():
        row = vocabulary.contexts.index(context)
        weight = seen.cells / (seen.cells + Fit.half_weight)
        mean, control = (torch.from_numpy(value) for value in (seen.mean, seen.control))
        own = (to_fold(mean) - to_fold(control)).numpy() - tables["common"][row]
        total += weight
        effect += weight * own
        error += weight**2 * seen.noise * np.square(slope(seen.mean))
    effect, error = tables["unit"] * effect / total, np.square(tables["unit"]) * error / total**2
    directions = tables["directions"]
    shared = directions.T @ (directions @ effect) if directions.any() else effect
    parts = Fit.parts_of(effect[None], shared[None], error[None])[0]
    trained = tables["parts"][: len(vocabulary.start_labels)].sum(1) * tables["unit"]
    length = np.linalg.norm(trained, axis=1) * np.linalg.norm(parts.sum(0))
    cosine = np.divide(trained @ parts.sum(0), length, out=np.zeros(len(trained)), where=length > 0)
    alike = np.square(np.maximum(cosine, 0))
    interaction = np.einsum("q,kqr->kr", alike, tables["interaction"][:, : len(trained)]) / (alike.sum() + NOTHING)
    row = {
        "parts": parts / tables["unit"],
        "variance": error / np.square(tables["unit"]),
        "elsewhere": tables["elsewhere"][-1],
        "interaction": interaction,
    }
    return {name: torch.from_numpy(values).float() for name, values in row.items()}
