"""Read the labels of cells and group the cells by condition."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile
from bionemo.screens.labels import Condition
from bionemo.screens.obs import ObsKey, labels_of, look_alikes, text_of


def rows_by_condition(file: CellFile, keys: Keys) -> tuple[dict[Condition, np.ndarray], list[str]]:
    """Return condition -> rows of its cells, sorted by condition, and what to say of labels that look alike.

    Raises
    ------
    InputError
        Where a column is missing, a cell has no label, or a label is the control's but for capitals or blanks.
    """
    obs: Any = file.cells.obs
    labels = {key: labels_of(obs, key, file.name) for key in (keys.scored_key, keys.perturbation_key)}
    notes = []
    for key, values in labels.items():
        control = keys.control if key == keys.perturbation_key else None
        notes += look_alikes(dict.fromkeys(values), key, file.name, control=control)
    table = pd.DataFrame({"context": labels[keys.scored_key], "perturbation": labels[keys.perturbation_key]})
    rows: dict[Any, np.ndarray] = table.groupby(["context", "perturbation"]).indices
    return {(str(c), str(p)): rows[c, p] for c, p in sorted(rows)}, notes


def contexts_of(file: CellFile, keys: Keys, rows: Mapping[Condition, np.ndarray]) -> dict[str, str]:
    """Return what is scored apart -> the context that it lies in; empty where contexts are scored as a whole."""
    if keys.within is None:
        return {}
    first = {scored: int(of[0]) for (scored, _), of in rows.items()}
    obs: Any = file.cells.obs
    labels = labels_of(obs, keys.context_key, file.name)[list(first.values())]
    return dict(zip(first, map(str, labels), strict=True))


def factors_of(file: CellFile, keys: Keys, rows: Mapping[Condition, np.ndarray]) -> dict[str, tuple[str, ...]]:
    """Return context -> labels of the columns that it is joined from; empty where one column holds the contexts."""
    obs: Any = file.cells.obs
    columns = ObsKey(keys.scored_key).columns(obs.columns, file.name)
    if len(columns) == 1:
        return {}
    first = {context: int(of[0]) for (context, _), of in rows.items()}
    parts = [text_of(obs[column])[list(first.values())] for column in columns]
    return dict(zip(first, (tuple(map(str, labels)) for labels in zip(*parts, strict=True)), strict=True))
