"""Starting from control cells that are already moved by what the perturbation did elsewhere.

Shapes: B sets, S cells, G genes, L training labels.
"""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from bionemo.scale.model.vocabulary import Vocabulary


class TransferredDelta(nn.Module):
    """Mean shift of each training label over training contexts, kept with the weights.

    The last row is the mean shift over labels and contexts, for a perturbation that no context has shown.
    """

    delta: torch.Tensor

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        self.register_buffer("delta", torch.zeros(len(vocabulary.transferred) + 1, len(vocabulary.genes)))

    def lookup(self, labels: Sequence[str], vocabulary: Vocabulary) -> torch.Tensor:
        """Shift of each label, log1p [B, G]; see :func:`rows_of`."""
        return torch.stack([combine(self.delta, rows_of(label, vocabulary)) for label in labels])


def rows_of(label: str, vocabulary: Vocabulary, without: Collection[str] = ()) -> list[list[int]]:
    """Rows of :class:`TransferredDelta` that a label's shift is made of: averaged in each list, then summed.

    That of the label itself; else, of each of its perturbations, those that have it alone, at any dose; else the last.
    The control label has none.

    Parameters
    ----------
    label
        A perturbation label whose names the vocabulary has.
    vocabulary
        Its ``transferred`` labels are the rows.
    without
        Labels whose rows are taken for absent.
    """
    if label == vocabulary.control:
        return []
    row_of = {name: row for row, name in enumerate(vocabulary.transferred) if name not in without}
    if label in row_of:
        return [[row_of[label]]]
    alone: dict[str, list[int]] = {}
    for other, row in row_of.items():
        names = [treatment.name for treatment in vocabulary.treatments(other)]
        if len(names) == 1:
            alone.setdefault(names[0], []).append(row)
    parts = [alone.get(treatment.name) for treatment in vocabulary.treatments(label)]
    return [part for part in parts if part] if all(parts) else [[len(vocabulary.transferred)]]


def combine(delta_LG: torch.Tensor, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Sum over the lists of the mean of their rows, [G]."""
    total = torch.zeros_like(delta_LG[0])
    for part in rows:
        total = total + delta_LG[list(part)].mean(0)
    return total


def move_cells(x0_BSG: torch.Tensor, delta_BG: torch.Tensor, ceiling: float) -> torch.Tensor:
    """Control cells shifted by a delta and kept within what expression can be, log1p [B, S, G]."""
    return (x0_BSG + delta_BG[:, None].to(x0_BSG.dtype)).clamp(0, ceiling)
