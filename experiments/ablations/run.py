"""Train, predict and score every variant x seed x screen; see README.md beside this file.

Usage, from the root of the repository: python -m experiments.ablations.run --out ablations
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from bionemo.screens.errors import InputError
from experiments.ablations.job import FINISHED, row_file
from experiments.ablations.screens import SCREENS
from experiments.ablations.summary import write_summary
from experiments.ablations.variants import DEFAULT, VARIANTS, settings
from experiments.screens import ROOT

Runner = Callable[[Path, str, int, int, list[str], Callable[[], object]], int]
"""Measures the named variants of a screen and seed, calls back after each, and returns an exit status."""


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, then write results.json, table.md and plot.svg."""
    given = _parser().parse_args(arguments)
    try:
        names = _chosen(given.only, [variant.name for variant in VARIANTS], "variant")
        screens = _chosen(given.screens, list(SCREENS), "screen")
        if DEFAULT not in names:
            names = [DEFAULT, *names]
        for screen in screens:
            SCREENS[screen].store(given.out)
        prefix = shlex.split(given.prefix)
        failed = run_missing(
            given.out, screens, names, given.seeds, given.steps, given.workers, lambda *job: _start(prefix, *job)
        )
        write_summary(finished(given.out), given.out)
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"wrote results.json, table.md and plot.svg in {given.out}")  # noqa: T201
    return 1 if failed else 0


def run_missing(
    out: Path, screens: list[str], names: list[str], seeds: int, steps: int, workers: int, runner: Runner
) -> int:
    """Measure every (screen, variant, seed) that has no row yet, all of one seed before the next.

    Returns
    -------
    int
        Groups of one screen and seed in which something failed.

    Raises
    ------
    InputError
        A row was made with other settings.
    """
    groups = []
    total = len(screens) * len(names) * seeds
    for seed in range(seeds):
        for screen in screens:
            missing = [name for name in names if not _is_finished(out, screen, name, seed, steps)]
            if missing:
                groups.append((screen, seed, missing))
    to_do = sum(len(missing) for *_, missing in groups)
    with (
        tqdm(total=total, initial=total - to_do, desc="ablations", unit="row") as bar,
        ThreadPoolExecutor(workers) as pool,
    ):

        def work(group: tuple[str, int, list[str]]) -> int:
            screen, seed, missing = group
            return runner(out, screen, seed, steps, missing, bar.update)

        return sum(status != 0 for status in pool.map(work, groups))


def finished(out: Path) -> list[dict]:
    """Every row there is, in the order of screens, variants and seeds."""
    order = {variant.name: place for place, variant in enumerate(VARIANTS)}
    rows = [json.loads(file.read_text()) for file in (out / "rows").glob("*.json")]
    return sorted(rows, key=lambda row: (list(SCREENS).index(row["screen"]), order[row["variant"]], row["seed"]))


def _is_finished(out: Path, screen: str, name: str, seed: int, steps: int) -> bool:
    file = row_file(out, screen, name, seed)
    if not file.exists():
        return False
    variant = next(variant for variant in VARIANTS if variant.name == name)
    if json.loads(file.read_text())["overrides"] != settings(variant, seed, steps):
        raise InputError(f"{file} was made with other settings: name another --out, or delete it.")
    return True


def _start(
    prefix: list[str], out: Path, screen: str, seed: int, steps: int, names: list[str], done: Callable[[], object]
) -> int:
    """Start ``job.py``; what it says goes into a log file."""
    command = [
        *prefix,
        sys.executable,
        "-m",
        "experiments.ablations.job",
        str(out),
        screen,
        str(seed),
        str(steps),
        *names,
    ]
    log = out / "logs" / f"{screen}-seed_{seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        log.open("a") as words,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=words, text=True) as job,
    ):
        assert job.stdout is not None
        for line in job.stdout:
            words.write(line)
            if line.startswith(FINISHED):
                done()
    if job.returncode:
        tqdm.write(f"{screen}, seed {seed}: something failed, see {log}", file=sys.stderr)
    return job.returncode


def _chosen(wanted: str | None, known: list[str], what: str) -> list[str]:
    if wanted is None:
        return known
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in known:
            raise InputError(f"there is no {what} {name!r}: choose among {', '.join(known)}.")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ablations.run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True, help="folder to work in")
    parser.add_argument("--steps", type=int, default=300, help="training steps of a run (300)")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (3)")
    parser.add_argument("--screens", default="simulated,papalexi,pbmc", help=f"some of {', '.join(SCREENS)}")
    parser.add_argument("--only", help="variants, separated by commas; the default is always among them")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time, of one thread each (1)")
    parser.add_argument("--prefix", default="", help="what to start every process with, such as 'srun -n1' or 'nice'")
    return parser


if __name__ == "__main__":
    sys.exit(main())
