"""Labels to the run table: which conditions there are, how many cells each has, and which cell has which."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bionemo.cellsets.inputs import matrices as row_readers
from bionemo.cellsets.inputs.cell_input import CellInput
from bionemo.cellsets.store.cell_store import RUN_DTYPE
from bionemo.screens.errors import InputError, choices, name_list

KINDS = ("context", "perturbation", "batch")
_BITS = 21
"""Of the number of a label of one kind, so that three make one integer."""
_MASK = 2**_BITS - 1


class Conditions:
    """The conditions of some inputs.

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
        If a column or a label is missing, no cell is a control, or a context has no control.

    Warns
    -----
    UserWarning
        If labels of one kind differ only by case or blanks.
    """

    def __init__(self, inputs: Sequence[CellInput], keys: Mapping[str, str | None], control: str, file: Path):
        self._keys, self._file = keys, file
        found: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        numbers: dict[int, int] = {}
        cells: list[int] = []
        with file.open("wb") as condition_of_cell:
            for labels in (labels for cells_of in inputs for labels in self._label_blocks(cells_of)):
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
        # Without a batch key every cell carries the label "", which is no batch.
        self.tables: dict[str, np.ndarray] = {
            kind: np.array(sorted(found[kind]) if keys[kind] else [], dtype=str) for kind in KINDS
        }
        self._place = {kind: {name: i for i, name in enumerate(self.tables[kind].tolist())} for kind in KINDS}
        self.runs, self._run_of = self._run_table(found, numbers, cells)
        self.n_cells = int(self.runs["length"].sum())
        self._check_control(control)
        self._warn_of_lookalikes()

    def runs_of(self, start: int, stop: int) -> np.ndarray:
        """Return the run of each of the cells [start, stop), int64; cells are counted through all inputs."""
        return self._run_of[np.fromfile(self._file, dtype=np.int32, count=stop - start, offset=4 * start)]

    def _labels(self, cells: CellInput, start: int, stop: int) -> dict[str, np.ndarray]:
        return {
            kind: np.full(stop - start, "", dtype=object) if key is None else cells.labels(key, start, stop)
            for kind, key in ((kind, self._keys[kind]) for kind in KINDS)
        }

    def _label_blocks(self, cells: CellInput) -> Iterator[dict[str, np.ndarray]]:
        missing: dict[str, tuple[int, int]] = {}
        for start in range(0, cells.n_cells, row_readers.BLOCK_ROWS):
            labels = self._labels(cells, start, min(start + row_readers.BLOCK_ROWS, cells.n_cells))
            for kind, column in labels.items():
                empty = [] if self._keys[kind] is None else np.flatnonzero(_blank(column))
                if len(empty):
                    count, first = missing.get(kind, (0, start + int(empty[0])))
                    missing[kind] = (count + len(empty), first)
            yield labels
        for kind, (count, first) in missing.items():
            raise InputError(
                f"obs column '{self._keys[kind]}' of {cells.path} is empty for {count} cells, the first is "
                f"'{cells.names(first, first + 1)[0].decode()}': label these cells or leave them out"
            )

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

    def _warn_of_lookalikes(self) -> None:
        for kind in KINDS:
            alike: dict[str, list[str]] = {}
            for name in self.tables[kind].tolist():
                alike.setdefault("".join(name.casefold().split()), []).append(name)
            for names in alike.values():
                if len(names) > 1:
                    warnings.warn(
                        f"{name_list(names)} in obs column '{self._keys[kind]}' differ only by case or blanks and are "
                        f"kept as {len(names)} labels: rename them if they mean one {kind}",
                        stacklevel=5,
                    )


def _number(labels: np.ndarray, numbers: dict[Any, int]) -> np.ndarray:
    """Return the number of each label; labels that have none yet are given the next ones."""
    codes, distinct = pd.factorize(labels)
    return np.array([numbers.setdefault(label, len(numbers)) for label in distinct], dtype=np.int64)[codes]


def _blank(labels: np.ndarray) -> np.ndarray:
    codes, distinct = pd.factorize(labels)
    return np.array([not label.strip() for label in distinct], dtype=bool)[codes]
