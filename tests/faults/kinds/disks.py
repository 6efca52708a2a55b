"""A disk is full, a file may not grow, or an operation fails: a sentence, and the next try works."""

import subprocess

from faults.kinds.kill import at_operation, prepared
from faults.trials import Trial, register_each

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES")


def small_disk(trial: Trial, name: str) -> str:
    """Run a command on a small disk; then make that larger and run it again. Where none can be mounted, limit files."""
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={_size(trial, name)}", "tmpfs", trial.work]
    if subprocess.run(mounted, capture_output=True).returncode:
        return short_files(trial, name)
    try:
        command = trial.commands[name]
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
    result = trial.base / trial.commands[name].out
    needed = sum(file.stat().st_size for file in [result, *result.glob("**/*")])
    return int(4096 + trial.rng.random() ** 2 * 2 * needed)


def failing_operation(trial: Trial, name: str) -> str:
    """Let one file operation fail as a full, broken or read-only disk lets it."""
    return at_operation(trial, name, do=trial.rng.choice(ERRORS))


register_each(
    "disk",
    small_disk,
    "simulate 20 3, split 10 1, prepare 60 6, predict 16 3, export 16 3, import 24 4, evaluate 12 2, pretrain 20 3, "
    "finetune 8 1",
)
register_each(
    "file-size",
    short_files,
    "simulate 10 1, prepare 30 3, overwrite 30 3, predict 10 1, export 10 1, import 16 1, evaluate 10 1, pretrain 16 2",
)
register_each(
    "failing-operation",
    failing_operation,
    "simulate 20 2, split 10 1, prepare 120 12, overwrite 80 8, predict 20 2, export 20 2, import 40 4, evaluate 20 2, "
    "pretrain 50 4, finetune 10 1",
)
