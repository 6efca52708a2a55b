"""A disk is full, a file may not grow, or an operation fails: a sentence, and the next try works."""

import os
import subprocess

from faults.kinds.kill import at_operation, prepared
from faults.sandbox import Found
from faults.trials import ERROR, Trial, register_each

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES")
NOWHERE = ("/proc/nothing", "../base/screen.h5ad", "../base/store/manifest.json/x")
"""Where nothing can be made."""


def small_disk(trial: Trial, name: str) -> str:
    """Run a command on a small disk; then make that larger and run it again. Where none can be mounted, limit files."""
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={_size(trial, name)}", "tmpfs", trial.work]
    if subprocess.run(mounted, capture_output=True).returncode:
        return short_files(trial, name)
    try:
        command = trial.command(name)
        first = trial.run(command)
        subprocess.run(["mount", "-o", "remount,size=256m", trial.work], check=True)
        return trial.settle(command, first)
    finally:
        subprocess.run(["umount", "-l", trial.work], check=True)


def short_files(trial: Trial, name: str) -> str:
    """Run a command that may write no file longer than some bytes."""
    command = prepared(trial, name)
    return trial.settle(command, trial.run(command, file_bytes=_size(trial, name) // 2))


def _size(trial: Trial, name: str) -> int:
    result = trial.base / "first" / name / "work" / trial.command(name).out
    needed = sum(file.stat().st_size for file in [result, *result.glob("**/*")])
    return int(4096 + trial.rng.random() ** 2 * 2 * needed)


def failing_operation(trial: Trial, name: str) -> str:
    """Let one file operation fail as a full, broken or read-only disk lets it."""
    return at_operation(trial, name, do=trial.rng.choice(ERRORS))


def unwritable(trial: Trial, name: str) -> str:
    """Let a command write where nothing can be made: it says so before it does its work."""
    command, place = trial.commands[name], trial.turn(NOWHERE)
    done = trial.run([f"{place}/{word}" if word == command.out else word for word in command.words])
    if not done.code:
        raise Found("silent wrong", f"it says that it has written {place}/{command.out}")
    done.check_error()
    if left := os.listdir(trial.work):
        raise Found("orphan", f"refused, but left behind: {', '.join(sorted(left))}")
    return ERROR


register_each(
    "disk",
    small_disk,
    "simulate 13 3, split 7 1, prepare 28 4, predict 11 3, export 11 3, import 16 4, evaluate 8 2, pretrain 13 3, "
    "finetune 6 1, shards 6 1, merged 6 1, submission 4 0, challenge 4 1, serving 4 0, throughput 6 1, scoring 2 0",
)
register_each(
    "file-size",
    short_files,
    "simulate 7 1, prepare 19 3, overwrite 19 3, predict 7 1, export 7 1, import 11 1, evaluate 7 1, pretrain 11 2, "
    "merged 6 0, submission 4 1",
)
register_each(
    "failing-operation",
    failing_operation,
    "simulate 13 2, split 7 1, prepare 56 8, overwrite 38 5, predict 13 2, export 13 2, import 26 4, evaluate 13 2, "
    "pretrain 32 4, finetune 7 1, shards 10 1, merged 10 1, submission 8 0, challenge 6 1, serving 6 1, "
    "throughput 6 0, loader 6 1, scoring 2 0",
)
register_each(
    "unwritable",
    unwritable,
    "simulate 3 0, split 3 0, prepare 3 0, predict 3 0, shards 3 0, submission 3 0, export 3 0, import 3 0, "
    "evaluate 3 0, challenge 3 0, pretrain 3 0, finetune 3 0, profile 3 0, loader 3 0, throughput 3 0, scoring 3 0, "
    "kernels 3 1, atlas 3 0, serving 3 1",
)
