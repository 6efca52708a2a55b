"""Read the labels of cells and group the cells by condition."""

import numpy as np
import pandas as pd

from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile
from bionemo.screens.errors import InputError, nearest
from bionemo.screens.labels import Condition


def labels(file: CellFile, keys: Keys) -> tuple[np.ndarray, np.ndarray]:
    """Return contexts [N] and perturbations [N] as strings; a key ``A+B`` that is no column joins two that are."""
    found = []
    for key, flag in ((keys.context_key, "--context-key"), (keys.perturbation_key, "--perturbation-key")):
        columns = [key] if key in file.cells.obs or "+" not in key else key.split("+")
        joined: list[str] = [""] * file.cells.n_obs
        for i, column in enumerate(columns):
            values = _column(file, column, flag)
            joined = [f"{left}+{right}" for left, right in zip(joined, values, strict=True)] if i else values
        found.append(np.array(joined, dtype=str))
    return found[0], found[1]


def _column(file: CellFile, column: str, flag: str) -> list[str]:
    obs = file.cells.obs
    if column not in obs:
        raise InputError(f"{file.name} has no column {column!r} in obs{nearest(column, obs.columns)}; give {flag}.")
    values = obs[column]
    empty = int((values.isna() | values.astype(str).str.strip().eq("")).sum())
    if empty:
        raise InputError(f"Column {column!r} of {file.name} has {empty} empty values; fill or drop those cells.")
    return values.astype(str).tolist()


def group(contexts: np.ndarray, perturbations: np.ndarray) -> dict[Condition, np.ndarray]:
    """Return condition -> rows, sorted by condition, from the labels of the cells [N] each."""
    labels = pd.DataFrame({"context": contexts, "perturbation": perturbations})
    rows = labels.groupby(["context", "perturbation"]).indices
    return {(str(context), str(perturbation)): rows[context, perturbation] for context, perturbation in sorted(rows)}
