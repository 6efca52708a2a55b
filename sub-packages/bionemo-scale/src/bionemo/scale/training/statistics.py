"""Means of conditions, read once from the store: what deltas are transferred, and what validation compares with."""

import numpy as np
import torch

from bionemo.cellsets import CellStore
from bionemo.scale.model.transfer import combine, rows_of
from bionemo.scale.model.vocabulary import Vocabulary

CELLS_OF_A_RUN = 1024
"""A mean is taken over so many cells of each run; cells lie in random order within it."""


class ConditionMeans:
    """Mean expression of (context, perturbation) conditions, and of every context's control cells.

    Parameters
    ----------
    store
        Where the cells are.
    eligible
        bool [runs], the runs to read beside the controls.

    Attributes
    ----------
    delta
        (context, perturbation), the store's indices -> mean log1p less that of the context's controls, float32 [G].
    """

    def __init__(self, store: CellStore, eligible: np.ndarray):
        sums: dict[tuple[int, int], np.ndarray] = {}
        counts: dict[tuple[int, int], int] = {}
        for run in store.runs[eligible | store.is_control]:
            cells = store.read(run["start"] + np.arange(min(run["length"], CELLS_OF_A_RUN)))
            # A run counts with all its cells, however few of them were read.
            condition = int(run["context"]), int(run["perturbation"])
            total = cells.mean(0, dtype=np.float64) * run["length"]
            sums[condition] = sums.get(condition, 0.0) + total
            counts[condition] = counts.get(condition, 0) + int(run["length"])
        means = {condition: total / counts[condition] for condition, total in sums.items()}
        self.delta: dict[tuple[int, int], torch.Tensor] = {
            (context, label): torch.from_numpy((mean - means[context, store.control_index]).astype(np.float32))
            for (context, label), mean in means.items()
            if label != store.control_index
        }


class TransferTable:
    """Deltas of training conditions, and for each training set the delta that other contexts would have given.

    Parameters
    ----------
    means
        Of the training conditions.
    labels
        The store's perturbation labels.
    vocabulary
        Its ``transferred`` labels are the rows of the table.
    """

    def __init__(self, means: ConditionMeans, labels: list[str], vocabulary: Vocabulary):
        self._labels, self._vocabulary = labels, vocabulary
        self._by_label: dict[str, dict[int, torch.Tensor]] = {}
        for (context, label), delta in means.delta.items():
            self._by_label.setdefault(labels[label], {})[context] = delta
        rows = [self._mean(label) for label in vocabulary.transferred]
        self.table = torch.stack([*rows, self._mean_over_all()])
        """[labels + 1, G], what :class:`TransferredDelta` keeps."""
        self._made: dict[tuple[int, int], torch.Tensor] = {}

    def delta(self, context: int, label: int) -> torch.Tensor:
        """Delta to start a set of that condition from, [G]; the condition's own cells are never in it."""
        if (context, label) not in self._made:
            self._made[context, label] = self._leave_one_out(context, self._labels[label])
        return self._made[context, label]

    def _leave_one_out(self, context: int, label: str) -> torch.Tensor:
        if context not in self._by_label.get(label, {}):
            return combine(self.table, rows_of(label, self._vocabulary))
        if len(self._by_label[label]) > 1:
            return self._mean(label, without=context)
        rows = rows_of(label, self._vocabulary, without=(label,))
        if rows == [[len(self.table) - 1]]:
            return self._mean_over_all(without=label)
        return combine(self.table, rows)

    def _mean(self, label: str, without: int | None = None) -> torch.Tensor:
        return torch.stack([delta for context, delta in self._by_label[label].items() if context != without]).mean(0)

    def _mean_over_all(self, without: str | None = None) -> torch.Tensor:
        """Over the labels of a context, then over contexts; zeros where nothing is left."""
        by_context: dict[int, list[torch.Tensor]] = {}
        for label, deltas in self._by_label.items():
            for context, delta in deltas.items():
                if label != without:
                    by_context.setdefault(context, []).append(delta)
        if not by_context:
            return torch.zeros_like(next(iter(next(iter(self._by_label.values())).values())))
        return torch.stack([torch.stack(deltas).mean(0) for deltas in by_context.values()]).mean(0)
