"""Say where the time of a command that predicts goes, by wrapping its forward passes, its reading and its writing."""

import time
from collections.abc import Callable
from typing import Any, Self

import h5py
import torch
from driver_protocol import cpu_seconds, memory


class Phases:
    """A `Phases` notes the seconds spent in functions that are wrapped while this context lasts, by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: list[tuple[float, float]] = []
        self._originals: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for owner, name, original in self._originals:
            setattr(owner, name, original)

    def part(self, owner: Any, name: str, phase: str) -> None:
        """Count the time of a function of `owner`."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **given: Any) -> Any:
            before = time.perf_counter()
            try:
                return original(*arguments, **given)
            finally:
                self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - before

        self._originals.append((owner, name, original))
        setattr(owner, name, timed)

    def forward(self, owner: Any, name: str) -> None:
        """Note begin and end of each call of the model."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **given: Any) -> Any:
            _finish_device()
            begin = time.perf_counter()
            answer = original(*arguments, **given)
            _finish_device()
            self.calls.append((begin, time.perf_counter()))
            return answer

        self._originals.append((owner, name, original))
        setattr(owner, name, timed)


def timed_command(command: Callable[[], None], phases: Phases, result: str) -> dict[str, Any]:
    """Run a command that writes predicted cells to an h5ad file, and say what it and its phases took.

    Returns
    -------
    dict
        `cells`, `forward_calls`, and of seconds: `wall_seconds` of the command, `cpu_seconds`, `forward_seconds`,
        `loop_seconds` (from the first forward pass to the last, what lies between included, or the timed loop where
        there is one, less what was waited for data), `wait_seconds`, `reading_seconds`, `writing_seconds`.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    cpu, begin = cpu_seconds(), time.perf_counter()
    command()
    wall, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
    file: Any
    with h5py.File(result) as file:
        cells = len(file["obs"][file["obs"].attrs["_index"]])
    seconds, calls = phases.seconds, phases.calls
    waiting = seconds.get("waiting", 0.0)
    loop = seconds.get("loop")
    if loop is None:
        # The wait for the first batch lies before the first call.
        loop = calls[-1][1] - calls[0][0] - waiting * (len(calls) - 1) / len(calls)
    return {
        "cells": cells,
        "forward_calls": len(calls),
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "forward_seconds": sum(end - begin for begin, end in calls),
        "loop_seconds": loop,
        "wait_seconds": waiting,
        "reading_seconds": seconds.get("reading", 0.0),
        "writing_seconds": seconds.get("writing", 0.0),
        "device_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        **memory(),
    }


def _finish_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
