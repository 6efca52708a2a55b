"""Train, predict and score the default recipe on two simulated and three real screens; see README.md beside this file.

Usage, from the root of the repository: python -m experiments.real_screens.run --out real_screens [--state FOLDER]
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bionemo.screens import Split
from bionemo.screens.errors import InputError, choices
from bionemo.screens.simulated_truth import numbered
from experiments.real_screens.summary import ALONE, BOTH, START, STATE, WHOLE, rows_of, write_summary
from experiments.screens import (
    CELL_TYPE,
    CELL_TYPES,
    SIMULATED,
    Screen,
    apart,
    blood,
    glioblastoma,
    many_contexts,
    mixed_blood,
    papalexi,
    seeded,
    train,
)

PATIENTS = ("PW030", "PW032", "PW034", "PW036", "PW040")
TRAININGS: dict[str, tuple[list[str], dict[str, float | None]]] = {
    "start": ([], {START: 0.0, WHOLE: 1.0, BOTH: None}),
    "alone": (["model.start=none", "model.evidence=off"], {ALONE: None}),
}
"""Training -> its settings, and its arms: the share of the network in each, or None for what the training chose."""


@dataclass(frozen=True)
class Fold:
    """A `Fold` is one split of a screen. The scores of all folds of a group are averaged."""

    name: str
    group: str
    screen: Screen
    within: str | None = None
    """Column of subpopulations that are scored apart, and that the model is not told of."""


def folds(out: Path) -> list[Fold]:
    """Return the folds: two simulated screens, THP-1, each patient left out in turn, and the cell types in three parts.

    Other patients and cell types are the validation conditions. In the split of THP-1 none is marked, and a trial draws
    some from the training conditions.
    """
    (out / "splits").mkdir(parents=True, exist_ok=True)
    found = [Fold("simulated", "simulated", SIMULATED)]
    names = numbered("perturbation", 24)
    held_out = {
        context: {"val": names[(-k) % 4 :: 4], "test": names[(k + 1) % 2 :: 2]}
        for k, context in enumerate(numbered("context", 20)[:5])
    }
    split = _split(out / "splits" / "many_contexts.toml", "many_contexts", held_out)
    found.append(Fold(split.stem, "simulated, 20 contexts", many_contexts(split)))
    found.append(Fold("papalexi", "THP-1", papalexi("split")))
    for place, patient in enumerate(PATIENTS):
        parts = {"val": [PATIENTS[(place + 1) % len(PATIENTS)]], "test": [patient]}
        split = _split(out / "splits" / f"gbm_{patient}.toml", "gbm", _everywhere("panobinostat", parts))
        found.append(Fold(split.stem, "glioblastoma", glioblastoma(split)))
    for part in range(3):
        parts = {"val": CELL_TYPES[(part + 1) % 3 :: 3][1:3], "test": CELL_TYPES[part::3]}
        split = _split(out / "splits" / f"pbmc_{part}.toml", "pbmc", _everywhere("STIM", parts))
        found.append(Fold(split.stem, "PBMC", blood(split)))
    parts = {"val": ["second"], "test": ["third"]}
    split = _split(out / "splits" / "pbmc_mixed.toml", "pbmc", _everywhere("STIM", parts))
    found.append(Fold(split.stem, "PBMC, cell types unnamed", mixed_blood(split), within=CELL_TYPE))
    return found


def _everywhere(perturbation: str, parts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[str]]]:
    """Return what holds one perturbation out, part -> contexts, as context -> part -> perturbations."""
    return {context: {part: [perturbation]} for part, contexts in parts.items() for context in contexts}


def _split(path: Path, name: str, held_out: Mapping[str, Mapping[str, Sequence[str]]]) -> Path:
    """Write a split that holds conditions out, context -> part -> perturbations, and return its path."""
    fewshot = {
        context: {part: frozenset(labels) for part, labels in parts.items()} for context, parts in held_out.items()
    }
    path.write_text(Split(fewshot=fewshot).to_toml(name, "A fold of the real screens."))
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, score every fold, then write results.json and table.md."""
    given = _parser().parse_args(arguments)
    trainings = given.trainings.split(",")
    try:
        for name in trainings:
            if name not in TRAININGS:
                raise InputError(f"there is no training {name}: {choices(name, TRAININGS)}")
        chosen = [fold for fold in folds(given.out) if not given.only or fold.name in given.only.split(",")]
        for fold in chosen:
            fold.screen.source(given.out)
        if given.state is not None and not given.state.is_dir():
            raise InputError(f"--state {given.state} is not a folder: name the one that holds FOLD/predicted*.h5ad.")
        failed = [fold.name for fold in chosen if not _measured(fold, given.out, given.seeds, trainings, given.state)]
        if len(failed) == len(chosen):
            raise InputError(f"nothing was measured in {', '.join(failed)}; what failed is said above.")
        facts = {fold.name: _facts(fold, given.out, given.seeds, trainings) for fold in chosen}
        write_summary(facts, failed, given.out)
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"wrote results.json and table.md in {given.out}")  # noqa: T201
    return 1 if failed else 0


def predict_seed(fold: Fold, out: Path, seed: int, training: str) -> None:
    """Train with one seed, and predict the held-out conditions with every arm of the training."""
    from bionemo.scale.inference.predict import predict

    run, screen = _run(fold, out, seed, training), fold.screen
    settings, arms = TRAININGS[training]
    command = train(screen, out, run, [*settings, *seeded(seed)])
    cells = screen.source(out)
    for arm, share in arms.items():
        own = {"like": cells, "seed": seed, "network_share": share}
        predict(run, cells, _predicted(run, arm), overwrite=True, progress=False, **own)
    (run / "command.txt").write_text(command)


def score(fold: Fold, out: Path, seeds: int, trainings: list[str], state: list[Path]) -> None:
    """Score all seeds of all arms together, and write the report, and a row of scores for each condition."""
    from bionemo.perteval import evaluate

    predicted: dict = {
        arm: [_predicted(_run(fold, out, seed, training), arm) for seed in range(seeds)]
        for training in trainings
        for arm in TRAININGS[training][1]
    }
    if state:
        predicted[STATE] = state
    screen, report = fold.screen, out / "reports" / fold.name
    cells = screen.source(out)
    evaluation = evaluate(
        predicted, cells, split=screen.split, within=fold.within, out=report, threads=1, progress=False
    )
    rows_of(evaluation).assign(fold=fold.name, group=fold.group).to_csv(_rows(fold, out), index=False)


def _measured(fold: Fold, out: Path, seeds: int, trainings: list[str], state: Path | None) -> bool:
    for seed in range(seeds):
        for training in trainings:
            done = _run(fold, out, seed, training) / "command.txt"
            if not done.exists() and not apart(predict_seed, fold, out, seed, training):
                return False
    # STATE's cells are not made from one control cell each, whose subpopulation they could have.
    theirs = [] if state is None or fold.within else sorted((state / fold.name).glob("predicted*.h5ad"))
    return apart(score, fold, out, seeds, trainings, theirs)


def _facts(fold: Fold, out: Path, seeds: int, trainings: list[str]) -> dict:
    if not _rows(fold, out).exists():
        return {}
    runs = [_run(fold, out, seed, training) for training in trainings for seed in range(seeds)]
    record = json.loads((runs[0] / "run.json").read_text())
    best = [run / ("trial/best.json" if (run / "trial").exists() else "best.json") for run in runs]
    return {
        "rows": pd.read_csv(_rows(fold, out), dtype={"context": str, "perturbation": str}),
        "commands": [(run / "command.txt").read_text() for run in runs],
        "chosen": [json.loads(file.read_text()) for file in best],
        "versions": record["versions"],
    }


def _run(fold: Fold, out: Path, seed: int, training: str = "start") -> Path:
    return out / "runs" / f"{fold.name}-seed_{seed}{'-alone' if training == 'alone' else ''}"


def _predicted(run: Path, arm: str) -> Path:
    return run / f"{arm.replace(' ', '_')}.h5ad"


def _rows(fold: Fold, out: Path) -> Path:
    return out / "reports" / fold.name / "rows.csv"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.real_screens.run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True, help="folder to work in")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (3)")
    parser.add_argument("--trainings", default=",".join(TRAININGS), help=f"some of {', '.join(TRAININGS)} (all)")
    parser.add_argument("--only", help="some folds by name, separated by commas")
    parser.add_argument(
        "--state", type=lambda text: Path(text).resolve(), help="folder with FOLD/predicted*.h5ad of STATE"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
