"""Make the run table of the labels: which conditions there are, how many cells each has, which cell has which."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bionemo.cellsets.inputs.cell_input import CellInput
from bionemo.cellsets.inputs.conditions import label_blocks
from bionemo.cellsets.store.cell_store import RUN_DTYPE
from bionemo.screens.controls import control_parts
from bionemo.screens.errors import InputError, choices, name_list
from bionemo.screens.obs import ObsKey, look_alikes

KINDS = ("context", "perturbation", "batch")
_log = logging.getLogger(__name__)
_BITS = 20
"""The number of a label takes so many bits: three labels and the part of a control cell then make one integer."""
_MASK, _PART_BITS = 2**_BITS - 1, 2


class Conditions:
    """A `Conditions` has the conditions of some inputs.

    Reading the labels takes memory for the conditions, not for the cells; the condition of each cell goes to `file`,
    four bytes a cell. `keys` has the obs columns of ``perturbation``, ``context`` and ``batch`` (None where there is
    none), and `control` is the perturbation label of control cells. An InputError says that a column or a label is
    missing, different labels would be joined to one, no cell is a control, a context has no control, or labels differ
    from the control label only by capitals or blanks.

    Attributes
    ----------
    tables : dict
        ``context``, ``perturbation``, ``batch``: the distinct labels in ascending order; no batch without its key.
    runs : structured array
        The run table.
    n_cells : int
        The cells of all inputs.
    """

    def __init__(self, inputs: Sequence[CellInput], keys: Mapping[str, str | None], control: str, file: Path):
        self._keys, self._file = keys, file
        obs_keys = {kind: ObsKey(key) for kind, key in keys.items() if key is not None}
        found: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        numbers: dict[int, int] = {}
        cells: list[int] = []
        with file.open("wb") as condition_of_cell:
            for cells_of, first, labels in _blocks(inputs, obs_keys):
                if "batch" not in labels:  # every cell carries the label "", which is no batch
                    labels["batch"] = np.full(len(labels["context"]), "", dtype=object)
                context, perturbation, batch = (_number(labels[kind], found[kind]) for kind in KINDS)
                for kind in KINDS:
                    if len(found[kind]) > 1 << _BITS:
                        raise InputError(
                            f"obs column '{keys[kind]}' has more than {1 << _BITS:,} labels: choose one of fewer as "
                            f"the {kind} key"
                        )
                part = _control_parts(cells_of, first, labels["perturbation"] == control)
                packed = (context << 2 * _BITS) | (perturbation << _BITS) | batch
                codes = _number((packed << _PART_BITS) | part, numbers)
                cells += [0] * (len(numbers) - len(cells))
                for number, count in enumerate(np.bincount(codes).tolist()):
                    cells[number] += count
                condition_of_cell.write(codes.astype(np.int32).data)
        self.tables: dict[str, np.ndarray] = {
            kind: np.array(sorted(found[kind]) if keys[kind] else [], dtype=str) for kind in KINDS
        }
        self._place = {kind: {name: i for i, name in enumerate(self.tables[kind].tolist())} for kind in KINDS}
        self.runs, self._run_of = self._run_table(found, numbers, cells)
        self.n_cells = int(self.runs["length"].sum())
        self._check_control(control)
        sources = ", ".join(str(cells_of.path) for cells_of in inputs[:3]) + (", ..." if len(inputs) > 3 else "")
        for kind, key in obs_keys.items():
            only_control = control if kind == "perturbation" else None
            for notice in look_alikes(self.tables[kind], key.key, sources, control=only_control):
                _log.warning(notice)

    def runs_of(self, start: int, stop: int) -> np.ndarray:
        """Return the run of each of the cells [start, stop), int64; cells are counted through all inputs."""
        return self._run_of[np.fromfile(self._file, dtype=np.int32, count=stop - start, offset=4 * start)]

    def _run_table(
        self, found: dict[str, dict[str, int]], numbers: dict[int, int], cells: list[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the run table, and for each condition by order of appearance its run."""
        codes = np.array(list(numbers), dtype=np.int64)
        packed, control_part = codes >> _PART_BITS, codes & (2**_PART_BITS - 1)
        labels = (packed >> 2 * _BITS, (packed >> _BITS) & _MASK, packed & _MASK)
        places = {}
        for kind, label in zip(KINDS, labels, strict=True):
            place = np.array([self._place[kind].get(name, -1) for name in found[kind]], dtype=np.int64)
            places[kind] = place[label]
        places["control_part"] = control_part
        order = np.lexsort(list(places.values())[::-1])
        runs = np.zeros(len(order), dtype=RUN_DTYPE)
        for name, place in places.items():
            runs[name] = place[order]
        runs["length"] = np.array(cells)[order]
        runs["start"] = np.cumsum(runs["length"]) - runs["length"]
        return runs, np.argsort(order)

    def _check_control(self, control: str) -> None:
        perturbations, key = self.tables["perturbation"], self._keys["perturbation"]
        if control not in self._place["perturbation"]:
            raise InputError(
                f"No cell has the control label '{control}' in obs column '{key}': {choices(control, perturbations)}"
            )
        controls = self.runs[self.runs["perturbation"] == self._place["perturbation"][control]]
        without = self.tables["context"][np.setdiff1d(self.runs["context"], controls["context"])]
        if len(without):
            raise InputError(
                f"{len(without)} of the contexts in obs column '{self._keys['context']}' have no '{control}' cells "
                f"({name_list(without)}): "
                "add control cells, leave these contexts out, or choose another context key"
            )


def _blocks(
    inputs: Sequence[CellInput], keys: Mapping[str, ObsKey]
) -> Iterator[tuple[CellInput, int, dict[str, np.ndarray]]]:
    """Yield the labels of the inputs' cells in blocks, each with its input and its first row there."""
    for cells in inputs:
        first = 0
        for labels in label_blocks(cells, keys):
            yield cells, first, labels
            first += len(labels["context"])


def _control_parts(cells: CellInput, first: int, is_control: np.ndarray) -> np.ndarray:
    """Return the part of each control cell of a block, by its name in the input, and 0 for other cells; int64 [n]."""
    parts = np.zeros(len(is_control), dtype=np.int64)
    if is_control.any():
        names = cells.names(first, first + len(is_control))[is_control]
        parts[is_control] = control_parts(name.decode() for name in names.tolist())
    return parts


def _number(labels: np.ndarray, numbers: dict[Any, int]) -> np.ndarray:
    """Return the number of each label; labels that have none yet are given the next ones."""
    codes, distinct = pd.factorize(labels)
    return np.array([numbers.setdefault(label, len(numbers)) for label in distinct], dtype=np.int64)[codes]
