"""Disturb every command in every way, and count how they end: ``python tests/faults/run.py [--short]``."""

import argparse
import concurrent.futures
import ctypes
import gc
import importlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import workshop
from faults.report import Ended, print_table, said
from faults.sandbox import Found
from faults.trials import KINDS, Trial

for module in ("kill", "damage", "disks", "twice", "labels", "environment"):
    importlib.import_module(f"faults.kinds.{module}")


def main() -> int:
    """Run the campaign, print its table, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few trials of each type, in minutes")
    parser.add_argument("--only", metavar="TYPE", nargs="+", default=[""], help="types whose name begins so")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--trial", type=int, help="only this number of each type")
    parser.add_argument("--workers", type=int, default=2, help="trials at once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no trial is started")
    parser.add_argument("--once-more", action="store_true", help="run what failed again, alone: the second end counts")
    parser.add_argument("--folder", type=Path, help="where to work; a new one in the temporary directory if not said")
    told = parser.parse_args()
    chosen = [kind for kind in KINDS.values() if kind.name.startswith(tuple(told.only))]
    numbers = {
        k.name: range(k.short if told.short else k.whole) if told.trial is None else [told.trial] for k in chosen
    }
    # Spread, so that trials that take long do not come together at the end, and none is always the last.
    trials = [(i / len(n), name, number) for name, n in numbers.items() for i, number in enumerate(n)]
    random.Random(told.seed).shuffle(trials)
    trials.sort(key=lambda trial: trial[0])
    if not trials:
        parser.error(f"no trial is called {told.only}: there are {', '.join(KINDS)}")
    folder = (told.folder or Path(tempfile.mkdtemp(prefix="faults-"))).resolve()
    began = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    workshop.warm()
    commands = workshop.make(folder / "base")
    print(
        f"{len(trials)} trials of {len(chosen)} types in {folder}, after {time.monotonic() - began:.0f} s", flush=True
    )
    named = [(name, number) for _, name, number in trials]
    ended = run(named, told.workers, told.seed, folder, commands, began + 60 * told.minutes)
    if told.once_more:
        again = [(trial.kind, trial.number) for trial in ended if trial.failed]
        ended = [trial for trial in ended if not trial.failed] + run(again, 1, told.seed, folder, commands)
    failed = print_table(ended, told.seed)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = f"{time.monotonic() - began:.0f} s, and {used.ru_utime + used.ru_stime:.0f} s of CPU"
    print(f"{len(ended)} of {len(trials)} trials took {took}; seed {told.seed}")
    if failed:
        print(f"The folders of the trials that failed are in {folder}.")
    else:
        shutil.rmtree(folder)
    return int(failed)


def run(
    trials: list[tuple[str, int]],
    workers: int,
    seed: int,
    folder: Path,
    commands: dict,
    until: float = float("inf"),
) -> list[Ended]:
    """Run trials, each given as (kind, number), and return how they ended.

    None is started after a time of the monotonic clock.
    """
    ended: list[Ended] = []
    # Forked now, so that every worker has imported what the commands need; no thread runs yet. What is frozen is not
    # looked through in each fork, which would copy it.
    gc.freeze()
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(workers, context, end_with_campaign) as pool:
        futures = [pool.submit(one, name, number, seed, folder, commands) for name, number in trials]
        try:
            for done in concurrent.futures.as_completed(futures):
                if done.cancelled():
                    continue
                if time.monotonic() > until:
                    for future in futures:
                        future.cancel()
                ended.append(done.result())
                if ended[-1].failed:
                    print(said(ended[-1], seed), flush=True)
                if len(ended) % 50 == 0:
                    print(f"{len(ended)} of {len(trials)} have ended", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # and wait for those that run
    return ended


def end_with_campaign() -> None:
    """Let the kernel kill this worker where the campaign ends, in whichever way."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, which forks of this one do not inherit


def one(name: str, number: int, seed: int, folder: Path, commands: dict) -> Ended:
    """Run one trial, and return how it ended."""
    began = time.monotonic()
    trial = Trial(name, number, seed, folder / "base", folder / f"{name}-{number}", commands)
    try:
        column, words = KINDS[name].run(trial), ""
    except Found as found:
        column, words = found.column, found.words
    except Exception:
        column, words = "silent wrong", f"the trial itself broke: {traceback.format_exc()}"
    ended = Ended(name, number, column, words, time.monotonic() - began)
    if not ended.failed:
        shutil.rmtree(trial.folder)
    return ended


if __name__ == "__main__":
    sys.exit(main())
