"""Train, predict and score the default recipe on the real screens, three seeds a fold; see README.md beside this file.

Usage, from the root of the repository: python -m experiments.real_screens.run --out real_screens [--state FOLDER]
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from bionemo.screens.errors import InputError
from experiments.real_screens.summary import SCALE, STATE, write_summary
from experiments.screens import Screen, apart, glioblastoma, import_once, papalexi, seeded, train

PATIENTS = ("PW030", "PW032", "PW034", "PW036", "PW040")
UNUSED = ("training.max_steps=25", "training.warmup_steps=5")
"""Where no condition can be held out to choose with, predictions are the linear start, however long the network was
trained."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One split of one screen. `chosen`: whether some conditions, marked or drawn, choose the share of the network."""

    name: str
    screen: Screen
    chosen: bool = False

    def overrides(self, seed: int) -> list[str]:
        """Settings beside the recipe's."""
        return [*(() if self.chosen else UNUSED), *seeded(seed)]


def folds(out: Path) -> list[Fold]:
    """Return the folds: two splits of the CRISPR screen, and each of the five patients left out."""
    found = [
        Fold(name="papalexi", screen=papalexi("split"), chosen=True),
        Fold(name="papalexi_validated", screen=papalexi("validated"), chosen=True),
    ]
    (out / "splits").mkdir(parents=True, exist_ok=True)
    for patient in PATIENTS:
        split = out / "splits" / f"gbm_{patient}.toml"
        split.write_text(f'[training]\ngbm = "train"\n\n[fewshot."gbm.{patient}"]\ntest = ["panobinostat"]\n')
        found.append(Fold(name=f"gbm_{patient}", screen=glioblastoma(split)))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, score every fold, then write results.json and table.md."""
    given = _parser().parse_args(arguments)
    try:
        chosen = folds(given.out)
        for fold in chosen:
            fold.screen.source(given.out)
        if given.state is not None and not given.state.is_dir():
            raise InputError(f"--state {given.state} is not a folder: name the one that holds FOLD/predicted.h5ad.")
        import_once()
        failed = [fold.name for fold in chosen if not _measured(fold, given.out, given.seeds, given.state)]
        write_summary({fold.name: _facts(fold, given.out, given.seeds) for fold in chosen}, failed, given.out)
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"wrote results.json and table.md in {given.out}")  # noqa: T201
    return 1 if failed else 0


def predict_seed(fold: Fold, out: Path, seed: int) -> None:
    """Train with one seed, and predict the held-out conditions with the same."""
    from bionemo.scale.inference.predict import predict

    run = out / "runs" / f"{fold.name}-seed_{seed}"
    command = train(fold.screen, out, run, fold.overrides(seed))
    cells = fold.screen.source(out)
    predict(run, cells, _predicted(fold, out, seed), like=cells, seed=seed, overwrite=True, progress=False)
    (run / "command.txt").write_text(command)


def score(fold: Fold, out: Path, seeds: int, state: list[Path]) -> None:
    """Score all seeds together, STATE's beside them, and write the report."""
    from bionemo.perteval import evaluate

    predicted = {SCALE: [_predicted(fold, out, seed) for seed in range(seeds)]}
    if state:
        predicted[STATE] = state
    cells = fold.screen.source(out)
    report = out / "reports" / fold.name
    evaluate(predicted, cells, split=fold.screen.split, out=report, threads=1, progress=False)


def _measured(fold: Fold, out: Path, seeds: int, state: Path | None) -> bool:
    for seed in range(seeds):
        if not _predicted(fold, out, seed).exists() and not apart(predict_seed, fold, out, seed):
            return False
    theirs = [] if state is None else sorted((state / fold.name).glob("predicted*.h5ad"))
    return apart(score, fold, out, seeds, theirs)


def _facts(fold: Fold, out: Path, seeds: int) -> dict:
    report = out / "reports" / fold.name / "metrics.json"
    if not report.exists():
        return {}
    runs = [out / "runs" / f"{fold.name}-seed_{seed}" for seed in range(seeds)]
    return {
        "report": json.loads(report.read_text()),
        "commands": [(run / "command.txt").read_text() for run in runs],
        "validation": [json.loads((run / "best.json").read_text()) for run in runs if (run / "best.json").exists()],
        "model_versions": json.loads((runs[0] / "run.json").read_text())["versions"],
    }


def _predicted(fold: Fold, out: Path, seed: int) -> Path:
    return out / "runs" / f"{fold.name}-seed_{seed}" / "predicted.h5ad"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.real_screens.run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True, help="folder to work in")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (3)")
    parser.add_argument(
        "--state", type=lambda text: Path(text).resolve(), help="folder with FOLD/predicted*.h5ad of STATE"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
