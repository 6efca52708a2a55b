"""Make AnnData of predicted cells, and write it."""

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from bionemo.scale.inference.controls import ORIGIN, ControlCells
from bionemo.scale.inference.generate import Prediction
from bionemo.scale.inference.inputs import Cells, Columns
from bionemo.scale.inference.populations import Population
from bionemo.screens.errors import InputError


def as_anndata(
    predicted: Prediction,
    cells: ControlCells,
    populations: Sequence[Population],
    columns: Columns,
    genes: Sequence[str],
    facts: Mapping[str, Any],
) -> ad.AnnData:
    """Give each predicted cell the row of its control cell in ``obs``, under its predicted perturbation.

    Parameters
    ----------
    predicted, populations
        The cells, population after population.
    cells
        The control cells.
    columns
        Which columns of ``obs`` hold the labels.
    genes
        The model's, in its order.
    facts
        What ``uns["prediction"]`` says beside the columns.
    """
    obs = cells.obs.iloc[predicted.origin].copy()
    counts = [population.cells for population in populations]
    obs[columns.perturbation] = pd.Categorical(np.repeat([p.perturbation for p in populations], counts))
    if any(p.batch is not None for p in populations):
        obs[columns.batch] = pd.Categorical(np.repeat([str(p.batch) for p in populations], counts))
    obs[ORIGIN] = obs.index.to_numpy()
    obs.index = pd.Index([f"predicted_{i}" for i in range(len(obs))])
    result = ad.AnnData(predicted.expression, obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
    result.uns["prediction"] = {
        "tool": f"bionemo-scale {version('bionemo-scale')}",
        "perturbation_key": columns.perturbation,
        "context_key": columns.context,
        "batch_key": columns.batch or "",
        "control": columns.control,
        **facts,
    }
    return result


def condition_table(trained: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return one row for each (context, perturbation); categories keep it small in a file."""
    pairs = [(context, label) for context, labels in trained.items() for label in labels]
    table = pd.DataFrame(pairs, columns=pd.Index(["context", "perturbation"]), dtype="category")
    table.index = table.index.astype(str)
    return table


def check_target(out: Path, inputs: Mapping[str, Cells | None], *, overwrite: bool) -> None:
    """Make sure that ``out`` can be written and is none of the files that are read.

    Parameters
    ----------
    out
        File to write; the directories above it need not exist.
    inputs
        Option -> what it names.
    overwrite
        Whether a file may be there.

    Raises
    ------
    InputError
        ``out`` is an input, a directory, under a file, in a directory that may not be written to, or there already.
    """
    for option, given in inputs.items():
        if isinstance(given, str | Path) and out.resolve() == Path(given).resolve():
            raise InputError(f"--out {out} is the file given with {option}, which it would replace: name another file.")
    if out.is_dir():
        raise InputError(f"--out {out} is a directory: name a file in it, such as {out / 'predicted.h5ad'}.")
    if out.exists() and not overwrite:
        raise InputError(f"--out {out} exists: name another file, or replace it with --overwrite.")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"--out {out} is under {above}, which is a file: name a file in a directory.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"--out {out} cannot be written, since {above} is not yours to write to: name another place.")


def write_whole(cells: ad.AnnData, out: Path) -> None:
    """Write all of the file or nothing; a file that was there stays until the new one is whole.

    Raises
    ------
    InputError
        The place cannot be written to, or is full.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            cells.write_h5ad(partial)
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    # h5py raises a RuntimeError where a disk fills up.
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{out} could not be written ({reason}): free the place, or name another.") from error
