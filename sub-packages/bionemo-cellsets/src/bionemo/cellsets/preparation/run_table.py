"""Make the run table of the labels: which conditions there are, how many cells each has, which cell has which."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bionemo.cellsets.inputs.cell_input import CellInput
from bionemo.cellsets.inputs.conditions import label_blocks
from bionemo.cellsets.store.cell_store import RUN_DTYPE
from bionemo.screens.errors import InputError, choices, name_list
from bionemo.screens.obs import ObsKey, look_alikes

KINDS = ("context", "perturbation", "batch")
_log = logging.getLogger(__name__)
_BITS = 21
"""Of the number of a label of one kind, so that three make one integer."""
_MASK = 2**_BITS - 1


class Conditions:
    """A `Conditions` has the conditions of some inputs.

    Reading the labels takes memory for the conditions, not for the cells; the condition of each cell goes to a file.

    Parameters
    ----------
    inputs : sequence of CellInput
        Whose labels to read.
    keys : mapping
        The obs columns of ``perturbation``, ``context`` and ``batch`` (None where there is none).
    control : str
        The perturbation label of control cells.
    file : Path
        To write, four bytes a cell.

    Attributes
    ----------
    tables : dict
        ``context``, ``perturbation``, ``batch``: the distinct labels in ascending order; no batch without its key.
    runs : structured array
        The run table.
    n_cells : int
        Of all inputs.

    Raises
    ------
    InputError
        If a column or a label is missing, different labels would be joined to one, no cell is a control, a context has
        no control, or labels differ from the control label only by capitals or blanks.
    """

    def __init__(self, inputs: Sequence[CellInput], keys: Mapping[str, str | None], control: str, file: Path):
        self._keys, self._file = keys, file
        obs_keys = {kind: ObsKey(key) for kind, key in keys.items() if key is not None}
        found: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        numbers: dict[int, int] = {}
        cells: list[int] = []
        with file.open("wb") as condition_of_cell:
            for labels in (labels for cells_of in inputs for labels in label_blocks(cells_of, obs_keys)):
                if "batch" not in labels:  # every cell carries the label "", which is no batch
                    labels["batch"] = np.full(len(labels["context"]), "", dtype=object)
                context, perturbation, batch = (_number(labels[kind], found[kind]) for kind in KINDS)
                for kind in KINDS:
                    if len(found[kind]) > 1 << _BITS:
                        raise InputError(
                            f"obs column '{keys[kind]}' has more than {1 << _BITS:,} labels: choose one of fewer as "
                            f"the {kind} key"
                        )
                codes = _number((context << 2 * _BITS) | (perturbation << _BITS) | batch, numbers)
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
        parts = (codes >> 2 * _BITS, (codes >> _BITS) & _MASK, codes & _MASK)
        places = []
        for kind, part in zip(KINDS, parts, strict=True):
            place = np.array([self._place[kind].get(name, -1) for name in found[kind]], dtype=np.int64)
            places.append(place[part])
        order = np.lexsort(places[::-1])
        runs = np.zeros(len(order), dtype=RUN_DTYPE)
        for kind, place in zip(KINDS, places, strict=True):
            runs[kind] = place[order]
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


def _number(labels: np.ndarray, numbers: dict[Any, int]) -> np.ndarray:
    """Return the number of each label; labels that have none yet are given the next ones."""
    codes, distinct = pd.factorize(labels)
    return np.array([numbers.setdefault(label, len(numbers)) for label in distinct], dtype=np.int64)[codes]
