"""Read the means of conditions from the store: validation compares with them, and a linear start is fitted to them."""

import numpy as np

from bionemo.cellsets import CellStore

CELLS_OF_A_RUN = 1024
"""A mean is taken over so many cells of each run; cells lie in random order within it."""

Condition = tuple[int, int]
"""(context, perturbation), the store's indices."""


class ConditionMeans:
    """A `ConditionMeans` holds the mean expression of (context, perturbation) conditions and of contexts' controls.

    Parameters
    ----------
    store
        The cells.
    eligible
        bool [runs], the runs to read beside the controls.

    Attributes
    ----------
    control
        The store's index of a context -> mean log1p of its control cells, float64 [G].
    delta
        Condition -> mean log1p less that of the context's controls, float64 [G].
    cells
        Condition -> how many cells it has.
    noise
        Condition, those of control cells too -> variance of the mean of its cells, log1p squared, float32 [G]. A cell's
        variance is taken to be that of the context's controls at least: a few cells may show none by chance.
    """

    def __init__(self, store: CellStore, eligible: np.ndarray):
        sums: dict[Condition, np.ndarray] = {}
        variances: dict[Condition, np.ndarray] = {}
        self.cells: dict[Condition, int] = {}
        read: dict[Condition, int] = {}
        for run in store.runs[eligible | store.is_control]:
            cells = store.read(run["start"] + np.arange(min(run["length"], CELLS_OF_A_RUN)))
            condition = int(run["context"]), int(run["perturbation"])
            # A run counts with all its cells, however few of them were read.
            sums[condition] = sums.get(condition, 0.0) + cells.mean(0, dtype=np.float64) * run["length"]
            variances[condition] = variances.get(condition, 0.0) + cells.var(0, dtype=np.float64) * len(cells)
            read[condition] = read.get(condition, 0) + len(cells)
            self.cells[condition] = self.cells.get(condition, 0) + int(run["length"])
        means = {condition: total / self.cells[condition] for condition, total in sums.items()}
        variance = {condition: total / max(read[condition] - 1, 1) for condition, total in variances.items()}
        self.noise: dict[Condition, np.ndarray] = {
            (context, label): (np.maximum(own, variance[context, store.control_index]) / read[context, label]).astype(
                np.float32
            )
            for (context, label), own in variance.items()
        }
        self.control: dict[int, np.ndarray] = {
            context: mean for (context, label), mean in means.items() if label == store.control_index
        }
        self.delta: dict[Condition, np.ndarray] = {
            (context, label): mean - self.control[context]
            for (context, label), mean in means.items()
            if label != store.control_index
        }
