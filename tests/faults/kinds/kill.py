"""A command is killed, at a file operation, at a byte of a file, or at some time, and started again."""

import os
import shutil
import signal
import time

from faults.trials import Trial, register, register_each
from faults.workshop import LONG, Command

FROM_START = ("simulate", "split", "inspect", "prepare", "overwrite", *LONG)
"""Commands that are also killed before they have begun to write."""


def prepared(trial: Trial, name: str) -> Command:
    """Return a command, and put the old store there that `prepare --overwrite` is to replace."""
    command = trial.command(name)
    if name == "overwrite":
        shutil.copytree(trial.base / "store", trial.work / "store")
    return command


def at_operation(trial: Trial, name: str, do: str = "SIGKILL", only: str = "") -> str:
    """Do something to the main process at one of its file operations."""
    command = prepared(trial, name)
    at = trial.rng.randint(1, max(1, command.operations if not only else command.operations // 5))
    plan = {"at": at, "do": do, "only": only, "rank": -1}  # of none that it starts
    first = trial.run(command, plan=plan, doomed=do.startswith("SIG"))
    return trial.settle(command, None if do == "SIGKILL" else first)


def at_byte(trial: Trial, name: str) -> str:
    """Kill the process when it writes a file beyond some byte."""
    command = prepared(trial, name)
    largest = max(file.stat().st_size for file in [trial.base / command.out, *trial.base.glob(f"{command.out}/**/*")])
    trial.run(command, file_bytes=int(largest * trial.rng.random() ** 2), die_at_limit=True)
    return trial.settle(command)


def at_time(trial: Trial, name: str, number: int = signal.SIGKILL) -> str:
    """Kill a real command line at some time after it has begun to write, or at any time of a short one."""
    command = prepared(trial, name)
    return kill_at_time(trial, command, number, from_start=name in FROM_START)


def kill_at_time(trial: Trial, command: Command, number: int, *, from_start: bool = False, group: bool = False) -> str:
    """Start a real command line, send it a signal at some time, and start it again."""
    running = trial.start(command, real=True, doomed=True)
    while not (from_start or running.ended() or os.listdir(trial.work)):
        time.sleep(0.01)
    seconds = command.seconds + 0.8 if from_start else command.seconds
    deadline = time.monotonic() + trial.rng.uniform(0, seconds)
    while time.monotonic() < deadline and not running.ended():
        time.sleep(0.005)
    if not running.ended():
        running.signal(number, group)
    first = running.finish()
    return trial.settle(command, None if number == signal.SIGKILL else first)


def beside(trial: Trial) -> str:
    """Kill a run, or its main process alone, that writes its checkpoints beside the training."""
    command = trial.other("async", "pretrain", "training.async_save=on", "training.max_steps=30")
    return kill_at_time(trial, command, signal.SIGKILL, group=trial.number % 2 == 0)


def two_ranks(trial: Trial, name: str, words: str, operations: int) -> str:
    """Send a signal to one of two ranks at one of its file operations, of which the second rank has fewer."""
    command = trial.other(f"{name}-ranks", name, *words.split())
    do, rank = trial.turn([(do, rank) for do in ("SIGKILL", "SIGTERM", "SIGINT") for rank in (0, 1)])
    at = trial.rng.randint(1, (command.operations, operations)[rank])
    first = trial.run(command, doomed=True, plan={"at": at, "do": do, "rank": rank})
    return trial.settle(command, None if do == "SIGKILL" and rank == 0 else first)


register_each(
    "kill-operation",
    at_operation,
    "simulate 38 4, split 19 3, prepare 110 12, overwrite 72 10, predict 26 4, export 26 4, import 38 6, "
    "evaluate 16 2, perteval 11 1, pretrain 38 5, finetune 11 1, shards 12 1, merged 12 1, submission 10 1, "
    "challenge 8 1, serving 8 1, throughput 8 1, loader 6 1, scoring 3 0",
)
register_each(
    "kill-rename",
    at_operation,
    "prepare 30 5, overwrite 38 8, import 13 2, pretrain 11 1, shards 8 1, merged 6 0, submission 6 0, throughput 4 0",
    only="rename",
)
register_each(
    "kill-byte",
    at_byte,
    "simulate 19 3, split 13 2, prepare 45 5, overwrite 28 3, predict 19 3, export 19 3, import 19 3, evaluate 11 1, "
    "pretrain 13 2, finetune 4 1, shards 8 0, merged 8 1, submission 6 0, challenge 4 0",
)
register_each(
    "kill-real",
    at_time,
    "simulate 14 2, split 14 2, inspect 8 1, prepare 40 3, overwrite 26 2, predict 7 1, export 6 1, import 6 1, "
    "evaluate 6 1, perteval 6 1, pretrain 8 1, finetune 3 1, shards 4 1, merged 4 0, challenge 3 0, serving 3 0, "
    "loader 4 0, scoring 2 0, atlas 2 0",
)
for do in ("SIGINT", "SIGTERM"):
    register_each(
        do.lower(),
        at_operation,
        "simulate 7 1, split 7 1, prepare 26 4, overwrite 19 3, predict 7 1, export 7 1, import 13 2, "
        "evaluate 7 1, pretrain 19 3, finetune 7 1, shards 6 1, merged 6 0, submission 4 0, challenge 4 0, "
        "serving 4 1, throughput 4 0, loader 4 0",
        do=do,
    )
register("sigint-real-pretrain", 4, 1, at_time, name="pretrain", number=signal.SIGINT)
register("sigterm-real-pretrain", 4, 1, at_time, name="pretrain", number=signal.SIGTERM)
register("sigint-real-atlas", 2, 0, at_time, name="atlas", number=signal.SIGINT)
register("kill-async-pretrain", 4, 1, beside)
register_each(
    "signal-two-ranks",
    two_ranks,
    "pretrain 12 2",
    words="compute.devices=2 training.sets_per_batch=2",
    operations=12,
)
register_each("signal-two-ranks", two_ranks, "shards 12 1, merged 6 0", words="--devices 2", operations=6)
