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
    "simulate 13 3, split 7 1, prepare 38 6, predict 11 3, export 11 3, import 16 4, evaluate 8 2, pretrain 13 3, "
    "finetune 6 1",
)
register_each(
    "file-size",
    short_files,
    "simulate 7 1, prepare 19 3, overwrite 19 3, predict 7 1, export 7 1, import 11 1, evaluate 7 1, pretrain 11 2",
)
register_each(
    "failing-operation",
    failing_operation,
    "simulate 13 2, split 7 1, prepare 76 12, overwrite 51 8, predict 13 2, export 13 2, import 26 4, evaluate 13 2, "
    "pretrain 32 4, finetune 7 1",
)
