"""Make AnnData of predicted cells, and check where they are to go."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from bionemo.scale.inference.controls import ORIGIN, ControlCells
from bionemo.scale.inference.generate import Prediction
from bionemo.scale.inference.inputs import Cells, Columns
from bionemo.scale.inference.populations import Population
from bionemo.scale.inference.shards import remove_merged, shards_of
from bionemo.screens.errors import InputError

OTHER_FILES = (".h5", ".hdf5", ".zarr", ".loom", ".csv", ".npz", ".parquet")
"""Suffixes of files that are not written."""


def as_anndata(
    predicted: Prediction,
    cells: ControlCells,
    populations: Sequence[Population],
    columns: Columns,
    genes: Sequence[str],
    facts: Mapping[str, Any],
    *,
    first: int,
    labels: Mapping[str, Sequence[str]],
) -> ad.AnnData:
    """Give each predicted cell the row of its control cell in ``obs``, under its predicted perturbation.

    The cells come population after population, with the model's genes; ``uns["prediction"]`` says `facts`. Of the whole
    prediction `first` cells lie before these, and `labels` are all labels, ``perturbation`` and ``batch``, so that its
    parts have the same categories.
    """
    obs = cells.obs.iloc[predicted.origin].copy()
    counts = [population.cells for population in populations]
    obs[columns.perturbation] = pd.Categorical(
        np.repeat([p.perturbation for p in populations], counts), categories=labels["perturbation"]
    )
    if labels["batch"]:
        obs[columns.batch] = pd.Categorical(
            np.repeat([str(p.batch) for p in populations], counts), categories=labels["batch"]
        )
    obs[ORIGIN] = obs.index.to_numpy()
    obs.index = pd.Index([f"predicted_{first + i}" for i in range(len(obs))])
    result = ad.AnnData(predicted.expression, obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
    result.uns["prediction"] = dict(facts)
    return result


def condition_table(trained: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return one row for each (context, perturbation); categories keep it small in a file."""
    pairs = [(context, label) for context, labels in trained.items() for label in labels]
    table = pd.DataFrame(pairs, columns=pd.Index(["context", "perturbation"]), dtype="category")
    table.index = table.index.astype(str)
    return table


def is_one_file(out: Path) -> bool:
    """Say whether all cells go into one file, or shards into a folder."""
    return out.suffix == ".h5ad"


def check_target(out: Path, inputs: Mapping[str, Cells | None], *, overwrite: bool) -> None:
    """Make sure that a file or folder can be written and is none of the files that options, `inputs`, name.

    The directories above it need not exist.

    Raises
    ------
    InputError
        The output is one of the inputs, its suffix is of another kind of file, or it exists and may not be overwritten.
        Or it lies under a file, or in a directory that may not be written to.
    """
    for option, given in inputs.items():
        if isinstance(given, str | Path) and os.path.realpath(out) == os.path.realpath(given):
            raise InputError(f"--out {out} is the file given with {option}, which it would replace: name another file.")
    if is_one_file(out) and out.is_dir():
        raise InputError(f"--out {out} is a directory: name a file in it, such as {out / 'predicted.h5ad'}.")
    if not is_one_file(out) and (out.suffix in OTHER_FILES or out.is_file()):
        raise InputError(f"--out {out} must be an .h5ad file, or a folder of such files without a suffix.")
    if out.is_file() and not overwrite:
        remove_merged(shards_of(out), out)
        raise InputError(f"--out {out} exists: name another file, or replace it with --overwrite.")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"--out {out} is under {above}, which is a file: name a file in a directory.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"--out {out} cannot be written, since {above} is not yours to write to: name another place.")
