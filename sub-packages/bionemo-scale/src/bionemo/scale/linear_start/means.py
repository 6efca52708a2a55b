"""Read the means of conditions from the store: validation compares with them, and a linear start is fitted to them."""

import numpy as np

from bionemo.cellsets import CellStore
from bionemo.screens.controls import ControlRole, ControlRoles

CELLS_OF_A_RUN = 1024
"""A mean is taken over so many cells of each run; cells lie in random order within it."""

Condition = tuple[int, int]
"""(context, perturbation), the store's indices."""

_ROLES = (ControlRole.INPUT, ControlRole.TARGET)


class ConditionMeans:
    """A `ConditionMeans` holds the mean expression of (context, perturbation) conditions and of contexts' controls.

    Parameters
    ----------
    store
        The cells.
    eligible
        bool [runs], the runs of perturbed cells to read; control runs among them are read by their roles alone.
    roles
        Which control cells are of the role input, and which of the role target; no others are read.

    Attributes
    ----------
    mean
        Condition -> mean log1p of its perturbed cells, float64 [G].
    cells
        Condition -> how many cells it has.
    noise
        Condition -> variance of its mean, log1p squared, float32 [G]. A cell's variance is taken to be that of the
        context's controls at least: a few cells may show none by chance.
    batches
        Perturbation -> the batches that its cells are from, the store's indices.
    control
        Role, input or target -> the store's index of a context -> mean log1p of its control cells, float64 [G].
    control_noise
        Role -> context -> variance of that mean, float32 [G].
    """

    def __init__(self, store: CellStore, eligible: np.ndarray, roles: ControlRoles):
        groups: dict[ControlRole | None, np.ndarray] = {role: store.has_role(role, roles) for role in _ROLES}
        groups[None] = eligible & ~store.is_control
        sums: dict[tuple, np.ndarray] = {}
        variances: dict[tuple, np.ndarray] = {}
        cells: dict[tuple, int] = {}
        read: dict[tuple, int] = {}
        self.batches: dict[int, set[int]] = {}
        for number in np.flatnonzero(np.any(list(groups.values()), axis=0)):
            run = store.runs[number]
            found = store.read(run["start"] + np.arange(min(run["length"], CELLS_OF_A_RUN)))
            # A run counts with all its cells, however few of them were read.
            total, spread = found.mean(0, dtype=np.float64) * run["length"], found.var(0, dtype=np.float64) * len(found)
            if groups[None][number]:
                self.batches.setdefault(int(run["perturbation"]), set()).add(int(run["batch"]))
            for role in (role for role, runs in groups.items() if runs[number]):
                group = role, int(run["context"]), int(run["perturbation"])
                sums[group] = sums.get(group, 0.0) + total
                variances[group] = variances.get(group, 0.0) + spread
                read[group] = read.get(group, 0) + len(found)
                cells[group] = cells.get(group, 0) + int(run["length"])
        variance = {group: total / max(read[group] - 1, 1) for group, total in variances.items()}
        self.mean: dict[Condition, np.ndarray] = {}
        self.cells: dict[Condition, int] = {}
        self.noise: dict[Condition, np.ndarray] = {}
        self.control: dict[ControlRole, dict[int, np.ndarray]] = {role: {} for role in _ROLES}
        self.control_noise: dict[ControlRole, dict[int, np.ndarray]] = {role: {} for role in _ROLES}
        for group, total in sums.items():
            role, context, label = group
            mean, own = total / cells[group], variance[group]
            if role is None:
                least = variance[ControlRole.INPUT, context, store.control_index]
                self.mean[context, label], self.cells[context, label] = mean, cells[group]
                self.noise[context, label] = (np.maximum(own, least) / read[group]).astype(np.float32)
            else:
                self.control[role][context] = mean
                self.control_noise[role][context] = (own / read[group]).astype(np.float32)

    def delta(self, condition: Condition, role: ControlRole) -> np.ndarray:
        """Return the shift of a condition from the control cells of a role, log1p, float64 [G]."""
        return self.mean[condition] - self.control[role][condition[0]]
