"""Run a command in a process of its own, and say what it needed."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bionemo.bench.harness.environments import ArmError


def measured(command: Sequence[str], log: Path) -> dict[str, Any]:
    """Run a command to its end, and return what it needed; it ends with this process, however that ends.

    Parameters
    ----------
    command
        The program and its arguments.
    log
        File that what it prints is appended to.

    Returns
    -------
    dict
        ``wall_seconds``; ``cpu_seconds`` of the process and those that it started; ``peak_rss_bytes``, the largest
        resident memory of one of them, with pages of mapped files; ``written_bytes`` to disks, None where the system
        does not say it.

    Raises
    ------
    ArmError
        The command failed; the message has its last line.
    """
    began = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=_end_with_parent
        )
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays, so that its counters can be read
        took, written = time.monotonic() - began, _written(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
        raise ArmError(f"{' '.join(command)} ended with code {process.returncode}: {last}")
    return {
        "wall_seconds": took,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "written_bytes": written,
    }


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _written(process: int) -> int | None:
    try:
        lines = Path(f"/proc/{process}/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), None)
