"""Check whether a model has seen what it is scored on: conditions, and with `strict` statistics of them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bionemo.perteval.inputs.reading import CellFile
from bionemo.screens.errors import InputError
from bionemo.screens.labels import Condition
from bionemo.screens.protocol import HVG_SOURCES
from bionemo.screens.split import Split

CONDITIONS = "training_conditions"
"""Key of `uns` under which a prediction lists (context, perturbation) of every cell that trained its model."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """A `TrainingRecord` is what is known of the training behind a prediction."""

    conditions: frozenset[Condition] | None = None
    """Every (context, perturbation) with a training cell, controls included; None where nobody said."""
    hvg_from: str | None = None
    """Which cells chose the genes, of `HVG_SOURCES`; None where nobody said."""
    hvg_split: str | None = None
    """`Split.hash` of the split whose training cells chose the genes; None where nobody said."""

    @classmethod
    def of(
        cls, file: CellFile, *, trained_on: Collection[Condition] | None = None, hvg_from: str | None = None
    ) -> "TrainingRecord":
        """Read what a prediction says, and add what the user says.

        Parameters
        ----------
        file
            ``uns["training_conditions"]`` is a table with the columns context and perturbation;
            ``uns["prediction"]`` may have ``hvg_from`` and ``hvg_split``.
        trained_on
            Further conditions that trained. They are added: a file cannot be talked out of its own record.
        hvg_from
            Used where the prediction does not say it.

        Raises
        ------
        InputError
            Where the record cannot be read, or contradicts the user.
        """
        stated, name = file.stated, file.name
        recorded = None if stated.get("hvg_from") in (None, "") else str(stated["hvg_from"])
        for value in (recorded, hvg_from):
            if value is not None and value not in HVG_SOURCES:
                raise InputError(f"hvg_from is {value!r} for {name}, but it takes {', '.join(HVG_SOURCES)}.")
        if recorded is not None and hvg_from is not None and recorded != hvg_from:
            raise InputError(f"{name} records hvg_from {recorded!r}, not {hvg_from!r}; leave --hvg-from out.")
        conditions: set[Condition] | None = None if trained_on is None else {(str(c), str(p)) for c, p in trained_on}
        if CONDITIONS in file.cells.uns:
            conditions = (conditions or set()) | _pairs(file.cells.uns[CONDITIONS], f"uns[{CONDITIONS!r}] of {name}")
        return cls(
            conditions=None if conditions is None else frozenset(conditions),
            hvg_from=recorded or hvg_from,
            hvg_split=str(stated["hvg_split"]) if stated.get("hvg_split") else None,
        )


def check_leakage(
    record: TrainingRecord,
    name: str,
    *,
    scored: Collection[Condition],
    held_out: Collection[Condition],
    control: str,
    split: Split | None,
    strict: bool,
) -> list[str]:
    """Refuse a prediction whose model has seen what it must not have seen; return what could not be checked.

    Parameters
    ----------
    record, name
        What is known of the training, and how messages call the prediction.
    scored, held_out
        Conditions with a prediction, and further ones that must not have trained.
    split
        Where `held_out` comes from; None where no split was given.
    strict
        Refuse also what used a statistic of held-out cells, and what nobody can check.

    Raises
    ------
    InputError
        Naming what was seen.
    """
    notes = []
    if split is not None:
        _check_parts(name, scored, split, strict, notes)
    elif strict and not held_out:
        raise InputError(
            "--strict has to know every held-out condition, or the baselines might use one: give --split or --held-out."
        )
    if record.conditions is None:
        text = f"nothing says what the model of {name} was trained on"
        if strict:
            raise InputError(f"--strict was given, but {text}; give --training-conditions.")
        notes.append(f"Leakage was not checked: {text} (--training-conditions).")
    else:
        forbidden = {*scored, *held_out}
        if split is not None:
            forbidden |= {(context, control) for context in split.zeroshot}
        seen = sorted(forbidden & record.conditions)
        if seen:
            raise InputError(
                f"The model of {name} was trained on {_listed(seen)}, which {'is' if len(seen) == 1 else 'are'} "
                "scored or held out; train it without, or drop what it has seen from the prediction."
            )
    _check_genes(record, name, split, strict, notes)
    return notes


def _check_parts(name: str, scored: Iterable[Condition], split: Split, strict: bool, notes: list[str]) -> None:
    parts: dict[str, list[Condition]] = {"train": [], "val": [], "test": []}
    for context, perturbation in sorted(scored):
        parts[split.part(context, perturbation)].append((context, perturbation))
    if parts["train"]:
        raise InputError(
            f"{name} has {_listed(parts['train'])}, which the split trains on; predict only what it holds out."
        )
    if parts["val"]:
        text = f"{_listed(parts['val'])} of the validation part, which may have chosen the checkpoint"
        if strict:
            raise InputError(f"--strict was given, but {name} has {text}; predict only the test part.")
        notes.append(f"{name} has {text}.")


def _check_genes(record: TrainingRecord, name: str, split: Split | None, strict: bool, notes: list[str]) -> None:
    problem = None
    if record.hvg_from is None:
        problem = f"nothing says which cells chose the genes of {name}; give --hvg-from"
    elif record.hvg_from == "all":
        problem = f"the genes of {name} were chosen on all cells, the held-out ones included; choose them on the split"
    elif record.hvg_from == "train" and split is not None and record.hvg_split not in (None, split.hash):
        problem = f"the genes of {name} were chosen on the training cells of another split; choose them on this one"
    if problem is None:
        return
    if strict:
        raise InputError(f"--strict was given, but {problem}.")
    notes.append(problem[0].upper() + problem[1:].partition("; ")[0] + ".")


def read_pairs(path: Path | str, option: str) -> list[Condition]:
    """Read (context, perturbation) pairs from a CSV with these two columns; `option` is how messages call it."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"The file {path} cannot be read as CSV ({error}); check {option}.") from error
    return sorted(_pairs(frame, f"The file {path} of {option}"))


def _pairs(table: object, where: str) -> set[Condition]:
    if not isinstance(table, pd.DataFrame) or not {"context", "perturbation"} <= set(table.columns):
        raise InputError(f"{where} is no table with the columns context and perturbation; give it these two.")
    return set(zip(table["context"].astype(str), table["perturbation"].astype(str), strict=True))


def _listed(conditions: list[Condition]) -> str:
    shown = ", ".join(f"{context} / {perturbation}" for context, perturbation in conditions[:3])
    return shown if len(conditions) <= 3 else f"{shown} and {len(conditions) - 3} further conditions"
