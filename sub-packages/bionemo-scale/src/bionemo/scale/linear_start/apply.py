"""Keep the fitted linear start with a model's weights, and move control cells by its shifts.

Axes: B sets, S cells, G genes, F features.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from itertools import chain, pairwise
from math import log

import torch
from torch import nn

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.fold_change import PSEUDOCOUNT, from_fold, to_fold

INTERACTION_RANK = 256
"""Directions of expression in which a model keeps interactions of contexts and perturbations."""
DIRECTIONS = 8
"""Directions of expression that the effects of perturbations are taken to share, at most."""


class Feature(IntEnum):
    """What is known of a gene in a condition from elsewhere; the linear start adds up all before `ERROR`."""

    SHARED = 0
    """The part of the perturbation's effect that lies in directions which others share."""
    OWN = 1
    """The part that does not, shrunk by its noise."""
    CLEAR = 2
    """The part that does not, in genes where it is clear of its noise."""
    COMMON = 3
    """What the perturbations of the context have in common."""
    PULL = 4
    """The way to the mean context."""
    INTERACTION = 5
    """How perturbations that resemble this one deviate in the context."""
    ERROR = 6
    """Standard error of the effect."""
    LEVEL = 7
    """Level of the control cells."""


FEATURES = len(Feature)
TERMS = Feature.ERROR.value
PARTS = Feature.COMMON.value
"""The effect itself is in so many parts."""


class LinearStart(nn.Module):
    """A `LinearStart` is the linear model as buffers; its tables are on the scale of :mod:`.fold_change`."""

    def __init__(self, vocabulary: Vocabulary, pseudocount: float = PSEUDOCOUNT, rank: int | None = None):
        super().__init__()
        self._pseudocount = pseudocount
        labels, contexts, genes = len(vocabulary.start_rows), len(vocabulary.contexts), len(vocabulary.genes)
        rank = interaction_rank(vocabulary) if rank is None else rank
        # The last row of each table is for a perturbation, or a context, that nothing is known of.
        self.parts = nn.Buffer(torch.zeros(labels + 1, PARTS, genes))  # P e_p, J (e_p - P e_p), K (e_p - P e_p)
        self.variance = nn.Buffer(torch.zeros(labels + 1, genes))  # of e_p
        self.elsewhere = nn.Buffer(torch.zeros(labels + 1, genes))  # mean of c over contexts, without p
        self.common = nn.Buffer(torch.zeros(contexts + 1, genes))  # c_k
        self.known = nn.Buffer(torch.zeros(contexts + 1))  # 1 where there is a c_k, else 0
        self.middle = nn.Buffer(torch.zeros(genes))  # m
        self.unit = nn.Buffer(torch.ones(genes))  # what features are multiplied by, gene by gene
        self.shares = nn.Buffer(torch.zeros(TERMS))  # s_1, s_2, s_3, b, a, c
        self.interaction = nn.Buffer(torch.zeros(contexts + 1, labels + 1, rank))  # i(k, p), in the basis
        self.basis = nn.Buffer(torch.zeros(rank, genes))
        # What effects share, on the scale of features; it serves perturbations that the model is told of later.
        self.directions = nn.Buffer(torch.zeros(DIRECTIONS, genes))
        self.size = nn.Buffer(torch.ones(FEATURES))  # root mean square of each feature in training

    def features(
        self, labels: Sequence[str], context_B: torch.Tensor, control_mean_BG: torch.Tensor, vocabulary: Vocabulary
    ) -> torch.Tensor:
        """Return what is known of conditions from elsewhere, on the scale of :class:`.evidence.Evidence`, [B, F, G].

        They come in the order of `Feature`. Of the control label all but the level is 0.
        `context_B` has rows of the vocabulary's contexts, int64, -1 for another, and `control_mean_BG` the mean log1p
        of the control cells of each set's context.
        """
        rows = [rows_of(label, vocabulary) for label in labels]
        parts_B3G, variance_BG = (
            torch.stack([combine(x, found) for found in rows]) for x in (self.parts, self.variance)
        )
        elsewhere_BG = torch.stack([combine(self.elsewhere, found) / len(found) for found in rows])
        common_BG = torch.where(self.known[context_B, None] > 0, self.common[context_B], elsewhere_BG)
        interaction_BR = torch.stack(
            [combine(self.interaction[k], found) for k, found in zip(context_B.tolist(), rows, strict=True)]
        )
        level_BG = to_fold(control_mean_BG, self._pseudocount)
        others = common_BG, self.middle - level_BG, interaction_BR @ self.basis, variance_BG.sqrt()
        effect_BFG = torch.cat([parts_B3G, torch.stack(others, dim=1)], dim=1)
        moves_B = torch.tensor([label != vocabulary.control for label in labels], device=effect_BFG.device)
        return torch.cat([effect_BFG * moves_B[:, None, None], level_BG[:, None]], dim=1) * self.unit

    def shift(self, features_BFG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the shift of conditions by their features, and the mean of the controls, log1p [B, G] each."""
        return shift_of(features_BFG, self.shares, self.unit, self._pseudocount)


def shift_of(
    features_BFG: torch.Tensor, shares_T: torch.Tensor, unit_G: torch.Tensor, pseudocount: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add up features by their shares, and return what :meth:`LinearStart.shift` does; see there for the buffers."""
    shares_T = shares_T.to(features_BFG.dtype)  # a training in bf16 keeps buffers in bf16, and features not
    level_BG, shift_BG = features_BFG[:, Feature.LEVEL], torch.einsum("btg,t->bg", features_BFG[:, :TERMS], shares_T)
    before_BG, after_BG = level_BG / unit_G, (level_BG + shift_BG) / unit_G
    control_mean_BG = from_fold(before_BG, pseudocount)
    return from_fold(after_BG, pseudocount) - control_mean_BG, control_mean_BG


def interaction_rank(vocabulary: Vocabulary) -> int:
    """Return in how many directions a model keeps interactions: all that there can be, where these are few."""
    pairs = len(vocabulary.contexts) * len(vocabulary.start_labels)
    return max(1, min(INTERACTION_RANK, len(vocabulary.genes), pairs))


Rows = list[list[tuple[int, float]]]
"""For each perturbation of a label, the rows of a table that its effect is made of, and their weights."""


def rows_of(label: str, vocabulary: Vocabulary, without: Collection[str] = ()) -> Rows:
    """Return the rows of ``LinearStart.parts`` that a label's effect is made of.

    These are the row of the label itself; else, for each of its perturbations, which the vocabulary has, the rows of
    labels that have it alone, weighted by dose as in `weights_by_dose`, or the row of its embedding; else the last row.
    Rows of the labels `without` are taken for absent.
    """
    if label in vocabulary.start_row_of and label not in without:
        return [[(vocabulary.start_row_of[label], 1.0)]]
    names, last = vocabulary.start_rows, [(len(vocabulary.start_rows), 1.0)]
    found: Rows = []
    for treatment in vocabulary.treatments(label):
        alone = vocabulary.start_rows_alone.get(treatment.name, {})
        known = {row: dose for row, dose in alone.items() if names[row] not in without}
        found.append(weights_by_dose(treatment.dose, known) or last)
    return found


def weights_by_dose(dose: float | None, known: Mapping[int, float | None]) -> list[tuple[int, float]]:
    """Return rows and weights that say what a perturbation does at a dose above 0, from other rows of it -> their dose.

    Between two doses the effect is linear in the logarithm of the dose, and beyond the lowest or the highest it is that
    of this one. Without a dose, or where no row has one, all rows count alike.
    """
    series = sorted((log(given), row) for row, given in known.items() if given is not None)
    if dose is None or not series:
        return [(row, 1 / len(known)) for row in known]
    place = log(dose)
    if place <= series[0][0] or place >= series[-1][0]:
        return [(series[0 if place <= series[0][0] else -1][1], 1.0)]
    (low, under), (high, over) = next(pair for pair in pairwise(series) if pair[0][0] <= place < pair[1][0])
    share = (place - low) / (high - low)
    return [(under, 1 - share), (over, share)]


def combine(effects: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return the sum of weighted rows of ``effects``, [L, ...] to [...]."""
    pairs = list(chain(*rows))
    weights = torch.tensor([weight for _, weight in pairs], dtype=effects.dtype, device=effects.device)
    return torch.tensordot(weights, effects[[row for row, _ in pairs]], dims=1)


def move_cells(
    x0_BSG: torch.Tensor, delta_BG: torch.Tensor, control_mean_BG: torch.Tensor, share: float = 1.0
) -> torch.Tensor:
    """Move control cells so that their mean shifts by a share of a delta, log1p [B, S, G].

    Upwards every cell is shifted. Downwards a gene is scaled, so that its zeros stay and none is asked to go below
    them: clamping a shift at 0 instead would lose most of the delta of a gene that is mostly zero.
    """
    keep_BG, add_BG = movement(delta_BG, control_mean_BG, share)
    keep_B1G, add_B1G = (part_BG[:, None].to(x0_BSG.dtype) for part_BG in (keep_BG, add_BG))
    return torch.addcmul(add_B1G, x0_BSG, keep_B1G)


def movement(
    delta_BG: torch.Tensor, control_mean_BG: torch.Tensor, share: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what :func:`move_cells` multiplies each gene by, and then adds to it, [B, G] each."""
    down_BG = (delta_BG / control_mean_BG.clamp(min=1e-6)).clamp(-1, 0)
    return 1 + share * down_BG, share * delta_BG.clamp(min=0)
