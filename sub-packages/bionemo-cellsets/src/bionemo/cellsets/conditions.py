"""Labels to the run table: which conditions there are, how many cells each has, and which cell has which."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bionemo.cellsets import cell_input
from bionemo.cellsets.cell_input import CellInput
from bionemo.cellsets.errors import InputError, choices, name_list
from bionemo.cellsets.store import RUN_DTYPE

KINDS = ("context", "perturbation", "batch")


class Conditions:
    """The conditions of some inputs.

    Reading the labels takes memory for the conditions, not for the cells.

    Parameters
    ----------
    inputs : sequence of CellInput
        Whose labels to read.
    keys : mapping
        The obs columns of ``perturbation``, ``context`` and ``batch`` (None where there is none).
    control : str
        The perturbation label of control cells.

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

    def __init__(self, inputs: Sequence[CellInput], keys: Mapping[str, str | None], control: str):
        self._keys = keys
        found: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        cells: dict[tuple[int, ...], int] = {}
        for cells_of in inputs:
            for labels in self._label_blocks(cells_of):
                codes = np.stack([_number(labels[kind], found[kind]) for kind in KINDS])
                conditions, counts = np.unique(codes, axis=1, return_counts=True)
                for condition, count in zip(conditions.T.tolist(), counts.tolist(), strict=True):
                    cells[tuple(condition)] = cells.get(tuple(condition), 0) + count
        # Without a batch key every cell carries the label "", which is no batch.
        self.tables: dict[str, np.ndarray] = {
            kind: np.array(sorted(found[kind]) if keys[kind] else [], dtype=str) for kind in KINDS
        }
        self._place = {kind: {name: i for i, name in enumerate(self.tables[kind].tolist())} for kind in KINDS}
        self.runs = self._run_table(found, cells)
        self.n_cells = int(self.runs["length"].sum())
        self._run_of = {tuple(run): i for i, run in enumerate(self.runs[["context", "perturbation", "batch"]].tolist())}
        self._check_control(control)
        self._warn_of_lookalikes()

    def runs_of(self, cells: CellInput, start: int, stop: int) -> np.ndarray:
        """Return the run of each of an input's rows [start, stop), int64."""
        labels = self._labels(cells, start, stop)
        codes = np.stack([_number(labels[kind], self._place[kind]) if self._keys[kind] else
                          np.full(stop - start, -1) for kind in KINDS])  # fmt: skip
        conditions, place = np.unique(codes, axis=1, return_inverse=True)
        runs = np.array([self._run_of[tuple(condition)] for condition in conditions.T.tolist()], dtype=np.int64)
        return runs[place.reshape(-1)]

    def _labels(self, cells: CellInput, start: int, stop: int) -> dict[str, np.ndarray]:
        return {
            kind: np.full(stop - start, "", dtype=object) if key is None else cells.labels(key, start, stop)
            for kind, key in ((kind, self._keys[kind]) for kind in KINDS)
        }

    def _label_blocks(self, cells: CellInput) -> Iterator[dict[str, np.ndarray]]:
        missing: dict[str, tuple[int, int]] = {}
        for start in range(0, cells.n_cells, cell_input.BLOCK_ROWS):
            labels = self._labels(cells, start, min(start + cell_input.BLOCK_ROWS, cells.n_cells))
            for kind, column in labels.items():
                empty = [] if self._keys[kind] is None else np.flatnonzero(_blank(column))
                if len(empty):
                    count, first = missing.get(kind, (0, start + int(empty[0])))
                    missing[kind] = (count + len(empty), first)
            yield labels
        for kind, (count, first) in missing.items():
            raise InputError(
                f"obs column '{self._keys[kind]}' of {cells.path} is empty for {count} cells, the first is "
                f"'{cells.names(first, first + 1)[0]}': label these cells or leave them out"
            )

    def _run_table(self, found: dict[str, dict[str, int]], cells: dict[tuple[int, ...], int]) -> np.ndarray:
        names = [list(found[kind]) for kind in KINDS]
        table = sorted(
            (*(self._place[kind].get(names[i][code[i]], -1) for i, kind in enumerate(KINDS)), count)
            for code, count in cells.items()
        )
        runs = np.zeros(len(table), dtype=RUN_DTYPE)
        runs["context"], runs["perturbation"], runs["batch"], runs["length"] = np.array(table).T
        runs["start"] = np.cumsum(runs["length"]) - runs["length"]
        return runs

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
                        stacklevel=4,
                    )


def _number(labels: np.ndarray, numbers: dict[Any, int]) -> np.ndarray:
    """Return the number of each label; labels that have none yet are given the next ones."""
    codes, distinct = pd.factorize(labels)
    return np.array([numbers.setdefault(label, len(numbers)) for label in distinct], dtype=np.int64)[codes]


def _blank(labels: np.ndarray) -> np.ndarray:
    codes, distinct = pd.factorize(labels)
    return np.array([not label.strip() for label in distinct], dtype=bool)[codes]
