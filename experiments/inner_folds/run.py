"""Score the choices behind the linear start on held-out training conditions; see README.md beside this file.

Usage, from the root of the repository: python -m experiments.inner_folds.run --out inner_folds
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from bionemo.perteval.metrics.scores import versions
from bionemo.screens.errors import InputError
from experiments.inner_folds.folds import Cells, Fold, patients, thp1
from experiments.inner_folds.populations import POPULATIONS
from experiments.inner_folds.scores import averages, correlations, table
from experiments.inner_folds.shifts import FORMS, LENGTHS, LOG1P, PRIORS, baseline, fitted, oracle, prior_chosen_inside

Screens = dict[str, tuple[Cells, list[Fold]]]
PLAIN = "plain transferred delta"


def main(arguments: list[str] | None = None) -> int:
    """Score shifts, priors and populations, then write results.json and table.md."""
    given = _parser().parse_args(arguments)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        screens: Screens = {"THP-1": thp1(given.out, given.seeds), "glioblastoma": patients(given.out)}
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)  # noqa: T201
        return 2
    results = {
        "folds": {name: len(folds) for name, (_, folds) in screens.items()},
        "versions": versions(),
        "forms": forms(screens),
        "priors": priors(*screens["glioblastoma"]),
        "populations": {name: populations(*found) for name, found in screens.items()},
    }
    (given.out / "results.json").write_text(json.dumps(_rounded(results), indent=1) + "\n")
    (given.out / "table.md").write_text(markdown(results))
    print(f"wrote results.json and table.md in {given.out}")  # noqa: T201
    return 0


def forms(screens: Screens) -> dict[str, dict[str, float]]:
    """Form of the shift -> screen -> mean correlation over folds."""
    return {
        form: {name: float(correlations(*found, shifts).mean()) for name, found in screens.items()}
        for form, shifts in FORMS.items()
    }


def priors(cells: Cells, folds: list[Fold]) -> dict[str, dict]:
    """Weight of the prior -> correlation by the patient that a test leaves out, their mean, and the most it loses."""
    plain = correlations(cells, folds, FORMS[PLAIN])
    arms = {
        PLAIN: FORMS[PLAIN],
        "log1p, 3": fitted(**LOG1P),
        **{f"{prior:g}": fitted(prior_conditions=prior) for prior in PRIORS},
        "chosen inside": prior_chosen_inside,
    }
    found = {}
    for name, shifts in arms.items():
        values = correlations(cells, folds, shifts)
        by_test = pd.Series(values).groupby([fold.apart[0][0] for fold in folds]).mean()
        found[name] = {**by_test.to_dict(), "mean": float(values.mean()), "worst": float((values - plain).min())}
    return found


def populations(cells: Cells, folds: list[Fold]) -> dict[str, dict[str, float]]:
    """Name of a shift and a way to a population -> metrics, means over folds."""
    default, sampled, mean = fitted(), POPULATIONS["in four groups (the default)"], POPULATIONS["the mean, tiled"]
    arms = {name: (default, make) for name, make in POPULATIONS.items()}
    arms |= {f"true shift: {name}": (oracle, make) for name, make in POPULATIONS.items()}
    arms |= {f"length {length:g}": (fitted(length=length), sampled) for length in LENGTHS}
    arms["log1p, prior 3, length 0.5"] = fitted(length=0.5, **LOG1P), sampled
    arms["log1p, prior 3, length 0.5, tiled"] = fitted(length=0.5, **LOG1P), mean
    for name in ("linear_delta", "transferred_delta"):
        arms |= {f"{name}": (baseline(name), sampled), f"{name}, tiled": (baseline(name), mean)}
    found = averages(table(cells, folds, arms))
    return {str(name): row.to_dict() for name, row in found.iterrows()}


def markdown(results: dict) -> str:
    """Return the tables."""
    parts = [
        "Correlation of exact means\n\n" + _table(pd.DataFrame(results["forms"]).T),
        "Glioblastoma: weight of the prior\n\n" + _table(pd.DataFrame(results["priors"]).T),
        *(f"{name}: populations\n\n" + _table(pd.DataFrame(rows).T) for name, rows in results["populations"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _table(frame: pd.DataFrame) -> str:
    lines = [["", *map(str, frame.columns)], ["---", *["---:"] * len(frame.columns)]]
    for name, row in frame.iterrows():
        lines.append([str(name), *("–" if np.isnan(value) else f"{value:.3f}".replace("-", "−") for value in row)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rounded(values):
    if isinstance(values, dict):
        return {name: _rounded(value) for name, value in values.items()}
    if isinstance(values, float):
        return None if np.isnan(values) else round(values, 6)
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.inner_folds.run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True, help="folder to work in")
    parser.add_argument("--seeds", type=int, default=6, help="draws of held-out THP-1 targets, four folds each (6)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
