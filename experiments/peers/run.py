"""Train, predict and score other projects' models on the folds of the real screens; see README.md beside this file.

Usage, from the root of the repository: python -m experiments.peers.run --peer biolord --screens thp1,pbmc --out peers
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from bionemo.bench.harness.environments import ArmError, Environment
from bionemo.bench.harness.worker import Bench
from bionemo.screens.errors import InputError, choices
from experiments.peers.job import Job, Step
from experiments.peers.peer import FOLDER, Peer
from experiments.peers.summary import write_summary
from experiments.real_screens.run import Fold, folds
from experiments.real_screens.summary import START, rows_of
from experiments.screens import START_ALONE, apart, seeded, train

SCREENS = {"simulated": "simulated", "thp1": "THP-1", "glioblastoma": "glioblastoma", "pbmc": "PBMC"}
"""Name on the command line -> group of folds."""


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, score every fold, then write results.json and table.md, and print the tables."""
    given = _parser().parse_args(arguments)
    try:
        if min(given.seeds, given.trials) < 1:
            raise InputError(f"--seeds is {given.seeds} and --trials {given.trials}: ask for at least 1 of each")
        peers = [Peer.find(name, given.trials) for name in given.peer.split(",")]
        chosen = _chosen(given.screens.split(","), given.out)
        jobs = {peer.name: [Job(peer, fold, given.out) for fold in chosen] for peer in peers}
        with _steps(given.out, jobs, chosen, given.seeds) as step:
            bench = Bench(given.cache.expanduser())
            failed = {name: why for name, of in jobs.items() if (why := _failure(of, bench, given.seeds, step))}
            whole = [job for of in jobs.values() for job in of if not job.missing(given.seeds)]
            if not whole:
                raise InputError(f"nothing was measured: {'; '.join(f'{name}: {why}' for name, why in failed.items())}")
            rows = [
                _score(fold, measured, given.out, given.seeds, step)
                for fold in chosen
                if (measured := [job for job in whole if job.fold is fold])
            ]
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)  # noqa: T201
        return 2
    facts = {
        name: {job.fold.name: {"best": job.best, "trials": job.trials()} for job in of} for name, of in jobs.items()
    }
    print(write_summary(pd.concat(rows), facts, failed, given.out))  # noqa: T201
    print(f"wrote results.json and table.md in {given.out}")  # noqa: T201
    return 1 if failed else 0


def _failure(jobs: Sequence[Job], bench: Bench, seeds: int, step: Step) -> str:
    """Run what is missing of a peer, and say why it stopped before the end; nothing where it did not."""
    left, peer = [job for job in jobs if job.missing(seeds)], jobs[0].peer
    if not left:
        return ""
    try:
        environment = Environment(name=f"peer-{peer.name}", requirements=peer.requirements)
        with bench.start(FOLDER / "driver", environment) as worker:
            for job in left:
                job.run(worker, seeds, step)
            versions = json.dumps(worker.ask("versions"), indent=1)
            (jobs[0].folder.parent / "versions.json").write_text(versions + "\n")
    except ArmError as error:
        return str(error)
    return ""


def _score(fold: Fold, jobs: Sequence[Job], out: Path, seeds: int, step: Step) -> pd.DataFrame:
    """Score the peers beside the linear start and all baselines, and write the report."""
    from bionemo.perteval import evaluate

    starts = [_start(fold, out, seed) for seed in range(seeds)]
    for seed, file in enumerate(starts):
        if not file.exists():
            with step(f"linear start, {fold.name}, seed {seed}"):
                if not apart(predict_start, fold, out, seed):
                    raise InputError(f"the linear start failed in {fold.name}; what failed is said above.")
    predicted = {START: starts, **{job.peer.name: [job.predicted(seed) for seed in range(seeds)] for job in jobs}}
    report, screen = out / "reports" / fold.name, fold.screen
    with step(f"report, {fold.name}"):
        # Strict, so that a peer that was given a held-out condition is refused.
        evaluation = evaluate(
            predicted, screen.source(out), split=screen.split, strict=True, out=report, threads=1, progress=False
        )
    return rows_of(evaluation).assign(fold=fold.name, group=fold.group)


def predict_start(fold: Fold, out: Path, seed: int) -> None:
    """Fit the linear start, in which the network takes no part, and predict the held-out conditions."""
    from bionemo.scale.inference.predict import predict

    file, cells = _start(fold, out, seed), fold.screen.source(out)
    train(fold.screen, out, file.parent, [*START_ALONE, *seeded(seed)])
    predict(file.parent, cells, file, like=cells, seed=seed, network_share=0.0, overwrite=True, progress=False)


def _start(fold: Fold, out: Path, seed: int) -> Path:
    return out / "starts" / f"{fold.name}-seed_{seed}" / "predicted.h5ad"


@contextmanager
def _steps(out: Path, jobs: dict[str, list[Job]], chosen: Sequence[Fold], seeds: int) -> Iterator[Step]:
    """Show a bar of all that is left to do."""
    starts = sum(not _start(fold, out, seed).exists() for fold in chosen for seed in range(seeds))
    trainings = sum(job.missing(seeds) for of in jobs.values() for job in of)
    with tqdm(total=trainings + starts + len(chosen), desc="peers", unit="step") as bar:

        @contextmanager
        def step(what: str) -> Iterator[None]:
            bar.set_postfix_str(what)
            yield
            bar.update()

        yield step


def _chosen(names: Sequence[str], out: Path) -> list[Fold]:
    """Return the folds of screens by name.

    Raises
    ------
    InputError
        There is no such screen, or its file is not there.
    """
    for name in names:
        if name not in SCREENS:
            raise InputError(f"there is no screen {name}: {choices(name, SCREENS)}")
    groups = [SCREENS[name] for name in names]
    chosen = [fold for fold in folds(out) if fold.group in groups]
    for fold in chosen:
        fold.screen.source(out)
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.peers.run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--peer", required=True, help="train_NAME.py's NAME, or a path of such a file; several with commas"
    )
    parser.add_argument("--screens", default=",".join(SCREENS), help=f"some of {', '.join(SCREENS)} (all)")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (3)")
    parser.add_argument(
        "--trials", type=int, default=4, help="settings that each peer may try on validation conditions (4)"
    )
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True, help="folder to work in")
    parser.add_argument(
        "--cache", type=Path, default=Path("~/.cache/bionemo-bench"), help="folder of the peers' environments"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
