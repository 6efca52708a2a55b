"""Read the means of conditions from the store: validation compares with them, and a linear start is fitted to them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bionemo.cellsets import CellStore
from bionemo.scale.linear_start.shared_arrays import Arrays, shared_arrays
from bionemo.screens.controls import ControlRole, ControlRoles

CELLS_OF_A_RUN = 1024
"""A mean is taken over so many cells of each run; cells lie in random order within it."""

Condition = tuple[int, int]
"""(context, perturbation), the store's indices."""

_ROLES = (ControlRole.INPUT, ControlRole.TARGET)


def base_of(control: Mapping[ControlRole, Mapping[int, np.ndarray]], contexts: int, genes: int) -> np.ndarray:
    """Return the mean of each context's control cells of the role target less that of the role input, float32 [K, G].

    `control` is as :class:`ConditionMeans` has it. A context that lacks one of them has 0.
    """
    base_KG = np.zeros((contexts, genes), dtype=np.float32)
    inputs, targets = (control[role] for role in _ROLES)
    for context in inputs.keys() & targets.keys():
        base_KG[context] = targets[context] - inputs[context]
    return base_KG


class ConditionMeans:
    """A `ConditionMeans` holds the mean expression of (context, perturbation) conditions and of contexts' controls.

    `eligible`, bool [runs], are the runs of perturbed cells to read; control runs are read by their roles, input and
    target, alone. All processes of a run share files of means in the folder; without one they are in memory.

    Attributes
    ----------
    mean
        Condition -> mean log1p of its perturbed cells, float32 [G].
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
        Role -> context -> variance of that mean, float64 [G].
    key
        What all this follows from, in a few letters.
    """

    def __init__(self, store: CellStore, eligible: np.ndarray, roles: ControlRoles, folder: Path | None = None):
        self._store = store
        self._perturbed = self._runs_by(eligible & ~store.is_control)
        self._of_role = {role: self._runs_by(store.has_role(role, roles)) for role in _ROLES}
        said = json.dumps([store.fingerprint, roles.to_dict(), hashlib.sha256(eligible.tobytes()).hexdigest()])
        self.key = hashlib.sha256(said.encode()).hexdigest()[:16]
        self.cells: dict[Condition, int] = {c: int(runs["length"].sum()) for c, runs in self._perturbed.items()}
        self.batches: dict[int, set[int]] = {}
        for (_, label), runs in self._perturbed.items():
            self.batches.setdefault(label, set()).update(runs["batch"].tolist())
        of_conditions = (len(self.cells), store.n_genes), np.float32
        of_controls = (len(_ROLES), len(store.contexts), store.n_genes), np.float64
        shapes = {"mean": of_conditions, "noise": of_conditions, "control": of_controls, "control_noise": of_controls}
        arrays = shared_arrays(folder, self.key, shapes, self._fill)
        self.mean: dict[Condition, np.ndarray] = dict(zip(self.cells, arrays["mean"], strict=True))
        self.noise: dict[Condition, np.ndarray] = dict(zip(self.cells, arrays["noise"], strict=True))
        self.control, self.control_noise = (
            {
                role: {context: np.array(arrays[name][i, context]) for context, _ in self._of_role[role]}
                for i, role in enumerate(_ROLES)
            }
            for name in ("control", "control_noise")
        )

    def delta(self, condition: Condition, role: ControlRole) -> np.ndarray:
        """Return the shift of a condition from the control cells of a role, log1p, float64 [G]."""
        return self.mean[condition] - self.control[role][condition[0]]

    def _runs_by(self, chosen: np.ndarray) -> dict[Condition, np.ndarray]:
        """Return the chosen runs by their condition, in the store's order."""
        found: dict[Condition, list[int]] = {}
        for number in np.flatnonzero(chosen):
            run = self._store.runs[number]
            found.setdefault((int(run["context"]), int(run["perturbation"])), []).append(number)
        return {condition: self._store.runs[numbers] for condition, numbers in found.items()}

    def _fill(self, arrays: Arrays) -> None:
        least: dict[int, np.ndarray] = {}
        for i, role in reversed(list(enumerate(_ROLES))):  # the input last: its variance is the least of a cell
            for (context, _), runs in self._of_role[role].items():
                mean, least[context], read = self._moments(runs)
                arrays["control"][i, context], arrays["control_noise"][i, context] = mean, least[context] / read
        for row, ((context, _), runs) in enumerate(self._perturbed.items()):
            mean, variance, read = self._moments(runs)
            arrays["mean"][row], arrays["noise"][row] = mean, np.maximum(variance, least[context]) / read

    def _moments(self, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the mean of the cells of runs and their variance, float64 [G], and how many cells were read."""
        total = spread = np.zeros(self._store.n_genes)
        read = 0
        for run in runs:
            cells = self._store.read(run["start"] + np.arange(min(run["length"], CELLS_OF_A_RUN)))
            # A run counts with all its cells, however few of them were read.
            total = total + cells.mean(0, dtype=np.float64) * run["length"]
            spread = spread + cells.var(0, dtype=np.float64) * len(cells)
            read += len(cells)
        return total / runs["length"].sum(), spread / max(read - 1, 1), read
