"""Which populations to predict, and how many cells of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.inference.controls import ControlCells
from bionemo.scale.inference.files import labelled, read_h5ad
from bionemo.screens import Split
from bionemo.screens.errors import InputError
from bionemo.screens.obs import look_alikes


@dataclass(frozen=True)
class Population:
    """One population to predict."""

    context: str
    perturbation: str
    batch: str | None
    cells: int


def populations_like(
    path: Path, keys: dict[str, str | None], vocabulary: Vocabulary, split: Split, part: str
) -> list[Population]:
    """As many cells per (context, perturbation, batch) as an observed file has.

    Parameters
    ----------
    path
        h5ad file of observed cells; its control cells are left out.
    keys
        obs columns of ``perturbation``, ``context`` and, or None, ``batch``.
    vocabulary
        For the control label.
    split
        Of the training run.
    part
        ``test``, ``val`` or ``train`` for the conditions of that part of the split; ``all`` for every one.

    Raises
    ------
    InputError
        A column is missing, or the file has no condition of that part.
    """
    by = [key for key in (keys["context"], keys["perturbation"], keys["batch"]) if key]
    obs = labelled(read_h5ad(path, labels_only=True), by, path)
    look_alikes(sorted(set(obs[keys["perturbation"]])), str(keys["perturbation"]), path, control=vocabulary.control)
    counted = obs[by].value_counts(sort=False).sort_index()
    wanted = []
    for names, cells in counted.items():
        context, perturbation, *batch = names  # type: ignore[misc]
        if perturbation == vocabulary.control:
            continue
        if part == "all" or split.part(context, perturbation) == part:
            wanted.append(Population(context, perturbation, batch[0] if batch else None, int(cells)))
    if not wanted:
        raise InputError(f"{path} has no condition of the split's {part!r} part: choose another with --part.")
    return wanted


def populations_of(
    perturbations: Sequence[str], controls: ControlCells, keys: dict[str, str | None]
) -> list[Population]:
    """Every (context, batch) of the control cells under each perturbation, one cell for each control cell.

    Batches stay together, without a name, where the run has no batch key or the control cells have no such column.
    """
    by = [key for key in (keys["context"], keys["batch"]) if key and key in controls.obs]
    counted = controls.obs[by].astype(str).value_counts(sort=False).sort_index()
    return [
        Population(context, perturbation, batch[0] if batch else None, int(cells))
        for perturbation in perturbations
        for (context, *batch), cells in counted.items()  # type: ignore[misc]
    ]


def select(populations: Sequence[Population], perturbations: Sequence[str], path: Path, part: str) -> list[Population]:
    """Those under the named perturbations.

    Raises
    ------
    InputError
        A name has no population there.
    """
    there = {p.perturbation for p in populations}
    for name in perturbations:
        if name not in there:
            near = get_close_matches(name, sorted(there), 1)
            raise InputError(
                f"{path} has no cell of perturbation {name!r} in the split's {part!r} part: "
                + (f"did you mean {near[0]!r}?" if near else "leave it out, or choose another --part.")
            )
    return [p for p in populations if p.perturbation in perturbations]


def check_known(populations: Sequence[Population], vocabulary: Vocabulary) -> None:
    """Raise an InputError for a perturbation neither seen nor embedded, or a dose unlike those of training."""
    unknown = sorted({name for p in populations for name in vocabulary.unknown(p.perturbation)})
    if unknown:
        known = [name for name in vocabulary.tokens if name != vocabulary.control]
        near = get_close_matches(unknown[0], known, 1)
        shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        missing = "never seen in training" + (" and has no embedding" if vocabulary.embedding_size else "")
        raise InputError(
            (f"perturbation {shown} was" if len(unknown) == 1 else f"{len(unknown)} perturbations ({shown}) were")
            + f" {missing}: "
            + (
                f"did you mean {near[0]!r}?"
                if near
                else f"give ones of the {len(known)} it knows, such as {', '.join(known[:3])}."
            )
        )
    for label in sorted({p.perturbation for p in populations}):
        for treatment in vocabulary.treatments(label):
            if treatment.dose is None or (vocabulary.log_dose and treatment.unit == vocabulary.dose_unit):
                continue
            had = f"doses in {vocabulary.dose_unit or 'no unit'}" if vocabulary.log_dose else "no doses"
            raise InputError(
                f"perturbation {label!r} gives a dose in {treatment.unit or 'no unit'}, and training had {had}: give "
                f"it as training did."
            )


def sources(population: Population, obs: pd.DataFrame, keys: dict[str, str | None], control_file: Path) -> np.ndarray:
    """Row numbers of the control cells a population starts from: its batch's, or its context's where it has none.

    Raises
    ------
    InputError
        The context has no control cell in the file.
    """
    of_context = (obs[keys["context"]].astype(str) == population.context).to_numpy()
    if not of_context.any():
        raise InputError(
            f"{control_file} has no control cell of context {population.context!r}, so nothing can be predicted there: "
            f"add its control cells, or leave the context out."
        )
    if population.batch is not None and keys["batch"] in obs:
        of_batch = of_context & (obs[keys["batch"]].astype(str) == population.batch).to_numpy()
        if of_batch.any():
            return of_batch.nonzero()[0]
    return of_context.nonzero()[0]


def batch_notices(
    populations: Sequence[Population], obs: pd.DataFrame, keys: dict[str, str | None], control_file: Path
) -> list[str]:
    """Say which batches have no control cells of their own, so that :func:`sources` takes those of the context."""
    if keys["batch"] not in obs:
        return []  # said once, by read_controls
    there = set(obs[[keys["context"], keys["batch"]]].astype(str).itertuples(index=False, name=None))
    asked = {(p.context, p.batch) for p in populations if p.batch is not None}
    without = [f"{batch!r} of {context!r}" for context, batch in sorted(asked - there)]
    if not without:
        return []
    return [
        f"{control_file} has no control cell of batch {', '.join(without[:5])}{', ...' if len(without) > 5 else ''}: "
        f"those populations start from the context's other batches."
    ]
