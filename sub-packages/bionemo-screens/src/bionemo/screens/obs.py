"""Turn obs columns into labels, the same way for every file that is read.

A key names one column, or several joined by ``+`` (``donor+cell_type``, ``drug+dose``) where no column has that whole
name. A number becomes the shortest decimal that gives it back in its own precision: a float32 dose of 0.1 is ``0.1``.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bionemo.screens.errors import InputError, choices, name_list


class ObsKey:
    """An `ObsKey` names the column or columns that hold one kind of label, in one file or in several."""

    def __init__(self, key: str):
        self.key = key
        self._values_of: dict[str, tuple[str, ...]] = {}

    def columns(self, at_hand: Iterable[str], source: str | Path) -> list[str]:
        """Return the columns that a file has to give, of those `at_hand`: the key itself where it is one of them.

        `source` is what messages call the file.

        Raises
        ------
        InputError
            The file lacks one.
        """
        at_hand = list(map(str, at_hand))
        columns = [self.key] if self.key in at_hand else self.key.split("+")
        for column in columns:
            if column not in at_hand:
                raise InputError(f"{source} has no obs column '{column}': {choices(column, at_hand)}")
        return columns

    def join(self, parts: Sequence[np.ndarray], source: str | Path) -> np.ndarray:
        """Join the labels of the columns of some cells, for each an object array of str [N], as `text_of` returns it.

        The joined labels [N] are empty where one of the parts is blank. `source` is what messages call the file.

        Raises
        ------
        InputError
            Different labels of the columns would be joined to one, in this call or with those of an earlier one.
        """
        if len(parts) == 1:
            return parts[0]
        row_code = np.zeros(len(parts[0]), dtype=np.int64)
        for part in parts:
            codes, distinct = pd.factorize(part)
            row_code = pd.factorize(row_code * len(distinct) + codes)[0]
        _, first, place = np.unique(row_code, return_index=True, return_inverse=True)
        joined = [self._joined(tuple(str(part[row]) for part in parts), source) for row in first]
        return np.array(joined, dtype=object)[place]

    def _joined(self, values: tuple[str, ...], source: str | Path) -> str:
        if not all(map(str.strip, values)):
            return ""
        label = "+".join(values)
        other = self._values_of.setdefault(label, values)
        if other != values:
            raise InputError(
                f"The obs columns '{self.key}' of {source} join ({name_list(other)}) and ({name_list(values)}) to the "
                f"same label '{label}': rename one of them, without its plus sign"
            )
        return label


def labels_of(obs: pd.DataFrame, key: str, source: str | Path) -> np.ndarray:
    """Return the labels of all cells of a table, object array of str [N]; `source` is what messages call the file.

    The key names a column, or several joined by ``+``.

    Raises
    ------
    InputError
        A column is missing, a cell has no label, or different labels would be joined to one.
    """
    obs_key = ObsKey(key)
    labels = obs_key.join([text_of(obs[column]) for column in obs_key.columns(obs.columns, source)], source)
    blank = np.flatnonzero(is_blank(labels))
    if len(blank):
        raise blank_labels(key, source, len(blank), str(obs.index[blank[0]]))
    return labels


def is_blank(labels: np.ndarray) -> np.ndarray:
    """Say which of the labels [N] are empty or of blanks only, a bool array [N]."""
    codes, distinct = pd.factorize(labels)
    return np.array([not label.strip() for label in distinct], dtype=bool)[codes]


def blank_labels(key: str, source: str | Path, count: int, first_cell: str) -> InputError:
    """Return the error for cells without a label."""
    return InputError(
        f"obs column '{key}' of {source} is empty for {count} cells, the first is '{first_cell}': label these cells or "
        "leave them out"
    )


def look_alikes(labels: Iterable[str], key: str, source: str | Path, *, control: str | None = None) -> list[str]:
    """Return a notice for each group of labels that differ only by capitals or blanks.

    The `labels` are the distinct ones of the column `key` of `source`. With perturbations the `control` label is given
    too.

    Raises
    ------
    InputError
        Labels differ from the control label only by capitals or blanks: they would count as perturbations.
    """
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(_folded(label), []).append(str(label))
    if control is not None:
        near = [label for label in alike.pop(_folded(control), []) if label != control]
        if near:
            raise InputError(
                f"{name_list(near)} in obs column '{key}' of {source} is the control label '{control}' but for "
                f"capitals or blanks, and would count as a perturbation: write '{control}' in these cells"
            )
    return [
        f"{name_list(names)} in obs column '{key}' of {source} differ only by capitals or blanks and are kept as "
        f"{len(names)} labels: rename them if they mean one thing."
        for names in alike.values()
        if len(names) > 1
    ]


def text_of(values: Any) -> np.ndarray:
    """Return a Series, an Index or an array as text, object array of str [N]; empty where a value is missing."""
    values = values.array if isinstance(values, pd.Series | pd.Index) else values
    if isinstance(values, pd.Categorical):
        # The code of a missing value is -1, which takes the last entry.
        return np.append(text_of(values.categories), "").astype(object)[values.codes]
    there = ~np.asarray(pd.isna(values))
    text = np.full(len(values), "", dtype=object)
    values = values if there.all() else values[there]
    if isinstance(values, pd.api.extensions.ExtensionArray):
        values = values.to_numpy(dtype=getattr(values.dtype, "numpy_dtype", object))
    if values.dtype.kind in "iufb":
        numbers, place = np.unique(values, return_inverse=True)
        text[there] = np.array([str(number) for number in numbers], dtype=object)[place]
    else:
        text[there] = [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
    return text


def _folded(label: str) -> str:
    return "".join(str(label).casefold().split())
