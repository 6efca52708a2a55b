"""Predict in several processes, each of which takes every N-th shard."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bionemo.scale.errors import Stopped
from bionemo.screens.errors import InputError

_PR_SET_PDEATHSIG = 1
_BEGAN = "BIONEMO_RANKS_BEGAN"


@dataclass(frozen=True)
class Rank:
    """A `Rank` says which of several processes this one is."""

    number: int = 0
    of: int = 1
    local: int = 0
    """Among those of this machine."""
    began: float = field(default_factory=time.time, compare=False)
    """Seconds since 1970 at which the processes were started: what is younger one of them has made."""

    @classmethod
    def from_environment(cls) -> "Rank":
        """Read what ``torchrun`` sets, numbers; without it this process is alone.

        An InputError says that the rank is not among the processes.
        """
        number, of, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        of = of or 1
        if not 0 <= number < of:
            raise InputError(f"RANK={number} is not among WORLD_SIZE={of} processes: start them with torchrun.")
        return cls(number, of, local, float(os.environ.get(_BEGAN, time.time())))


@contextmanager
def started(devices: int) -> Iterator[Rank]:
    """Start this command in so many processes, of which this one is the first; they end with it.

    An InputError says that ``torchrun`` has started several already, and a Stopped that one of the others has failed.
    """
    rank = Rank.from_environment()
    if devices == 1 or rank.of > 1:
        if devices > 1:
            raise InputError(f"--devices {devices} inside torchrun, which has started {rank.of} processes: choose one.")
        yield rank
        return
    others, began = [], repr(time.time())
    try:
        for number in range(1, devices):
            place = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(devices), _BEGAN: began}
            words = [sys.executable, *_without_devices(sys.orig_argv[1:])]
            others.append(subprocess.Popen(words, env=os.environ | place, preexec_fn=_end_with_parent))
        yield Rank(0, devices, 0)
        codes = {number: process.wait() for number, process in enumerate(others, 1)}
        failed = [f"rank {number} with {code}" for number, code in codes.items() if code]
        if failed:
            raise Stopped(f"{', '.join(failed)} ended early: start the same command again, which goes on.")
    finally:
        for process in others:
            process.terminate()
        for process in others:
            process.wait()


def _without_devices(words: list[str]) -> list[str]:
    """Leave ``--devices N`` out of a command's words."""
    kept, skip = [], False
    for word in words:
        if not skip and word != "--devices" and not word.startswith("--devices="):
            kept.append(word)
        skip = word == "--devices"
    return kept


def _end_with_parent() -> None:
    """Ask Linux to end this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
