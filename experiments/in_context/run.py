"""Predict perturbations that training never saw, by their cells in one context; see README.md beside this file.

Usage, from the root of the repository: python -m experiments.in_context.run --out in_context
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd

from bionemo.screens import Split
from bionemo.screens.errors import InputError
from experiments.in_context.summary import KNOWN, START, write_summary
from experiments.screens import SIMULATED, START_ALONE, Screen, apart, papalexi, seeded, train

SHARES = {START: 0.0, "whole network": 1.0, "both": None}
"""Arm -> the share of the network that it is predicted with; None is what validation chose."""
TRAINED, TOLD = KNOWN
SETTINGS = {
    False: ["model.evidence=on", "training.max_steps=200"],
    True: START_ALONE,
}
"""Whether the linear start is measured alone -> settings of the training, which that start takes no part in."""


@dataclass(frozen=True)
class Case:
    """A `Case` is a screen with perturbations that are new everywhere but in one context, or everywhere."""

    screen: Screen
    shown_in: str
    """The context whose cells of the new perturbations are trained on, or told of."""
    contexts: tuple[str, ...]
    """Where they are predicted."""
    new: tuple[str, ...]
    validation: dict[str, tuple[str, ...]]
    """Context -> other perturbations that choose the step and the share of the network."""

    def split(self, out: Path, known: str) -> Screen:
        """Return the screen with the split of one way to know the new perturbations, written under `out`."""
        held_out = (*self.contexts, *((self.shown_in,) if known == TOLD else ()))
        path = out / f"{self.screen.name}_{known.replace(' ', '_')}.toml"
        dataset = "screen" if self.screen.file is None else self.screen.name
        fewshot = {
            context: {"val": frozenset(self.validation.get(context, ())), "test": frozenset(self.new)}
            for context in held_out
        }
        path.write_text(Split(fewshot=fewshot).to_toml(dataset, f"The new perturbations are known by: {known}."))
        return replace(self.screen, split=path)


CASES = {
    "simulated": Case(
        SIMULATED,
        "context_1",
        ("context_2", "context_3", "context_4"),
        ("perturbation_02", "perturbation_05", "perturbation_07", "perturbation_10"),
        {"context_3": ("perturbation_01",), "context_4": ("perturbation_06",)},
    ),
    "THP-1": Case(
        papalexi("split"),
        "rep_1",
        ("rep_2", "rep_3"),
        ("IFNGR1", "STAT1", "CUL3", "SMAD4", "CD86", "UBE2L6"),
        {"rep_3": ("IFNGR2", "SPI1", "NFKBIA", "MYC", "STAT3", "CAV1")},
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, score every screen, then write results.json and table.md."""
    given = _parser().parse_args(arguments)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        for name, case in CASES.items():
            _written(case, given.out / name)
        for seed in range(given.seeds):
            for name, case in CASES.items():
                for known in KNOWN:
                    folder = given.out / name
                    done = (_run(folder, known, seed) / "command.txt").exists()
                    if not done and not apart(predict_seed, case, folder, known, seed, given.start_alone):
                        raise InputError(f"{name}, {known}, seed {seed}: something failed; it is said above.")
        for name, case in CASES.items():
            if not apart(score, name, case, given.out / name, given.seeds, given.start_alone):
                raise InputError(f"{name} could not be scored; what failed is said above.")
        write_summary({name: _facts(given.out / name, given.seeds) for name in CASES}, given.out)
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"wrote results.json and table.md in {given.out}")  # noqa: T201
    return 0


def predict_seed(case: Case, out: Path, known: str, seed: int, start_alone: bool) -> None:
    """Train with one seed, and predict the new perturbations where they are not shown."""
    from bionemo.scale.inference.predict import predict

    run = _run(out, known, seed)
    command = train(case.split(out, known), out, run, [*SETTINGS[start_alone], *seeded(seed)])
    asked, evidence = _written(case, out)
    choices = {"evidence": evidence} if known == TOLD else {}
    for arm in _arms(start_alone):
        predict(
            *(run, asked, _predicted(run, arm)),
            **{
                "like": asked,
                "seed": seed,
                "network_share": SHARES[arm],
                "overwrite": True,
                "progress": False,
                **choices,
            },
        )
    (run / "command.txt").write_text(command)


def score(name: str, case: Case, out: Path, seeds: int, start_alone: bool) -> None:
    """Score all seeds of all arms together, and write a row of scores for each condition."""
    from bionemo.perteval import evaluate

    predicted = {
        f"{known}, {arm}": [_predicted(_run(out, known, seed), arm) for seed in range(seeds)]
        for known in KNOWN
        for arm in _arms(start_alone)
    }
    cells, split = case.screen.source(out), case.split(out, TRAINED).split
    kind = evaluate(
        predicted, cells, split=split, controls="independent", threads=1, progress=False, out=out / "report"
    ).kinds[0]
    others = kind.per_perturbation[~kind.per_perturbation["arm"].isin(predicted)]
    table = pd.concat([kind.per_seed, others.assign(seed=0)])
    kinds = [kind.arms[arm].kind for arm in table["arm"]]
    table.assign(group=name, controls=str(kind.controls), kind=kinds).to_csv(out / "rows.csv", index=False)


def _written(case: Case, out: Path) -> tuple[Path, Path]:
    """Return files of the cells to predict, with their controls, and of the cells to tell of; make them if need be."""
    asked, evidence = out / "asked.h5ad", out / "evidence.h5ad"
    if not evidence.exists():
        out.mkdir(parents=True, exist_ok=True)
        cells: Any = ad.read_h5ad(case.screen.source(out))
        columns = case.screen.columns
        labels, contexts = (cells.obs[columns[key]].astype(str) for key in ("perturbation_key", "context_key"))
        kept = labels.isin([*case.new, columns["control"]])
        cells[(kept & contexts.isin(case.contexts)).to_numpy()].write_h5ad(asked)
        cells[(kept & (contexts == case.shown_in)).to_numpy()].write_h5ad(evidence)
    return asked, evidence


def _facts(out: Path, seeds: int) -> dict:
    runs = [_run(out, known, seed) for known in KNOWN for seed in range(seeds)]
    return {
        "rows": pd.read_csv(out / "rows.csv", dtype={"context": str, "perturbation": str}),
        "commands": [(run / "command.txt").read_text() for run in runs],
        "chosen": [json.loads((run / "best.json").read_text()) for run in runs if (run / "best.json").exists()],
        "versions": json.loads((runs[0] / "run.json").read_text())["versions"],
    }


def _arms(start_alone: bool) -> list[str]:
    return [START] if start_alone else list(SHARES)


def _run(out: Path, known: str, seed: int) -> Path:
    return out / "runs" / f"{known.replace(' ', '_')}-seed_{seed}"


def _predicted(run: Path, arm: str) -> Path:
    return run / f"{arm.replace(' ', '_')}.h5ad"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.in_context.run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True, help="folder to work in")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (3)")
    parser.add_argument(
        "--start-alone", action="store_true", help="the linear start without the network, so that a short training does"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
