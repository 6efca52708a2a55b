"""Share among all drivers how requests come in and answers go out, as JSON lines, and the clocks.

A driver is a script run by the interpreter of its own environment, so it and this module use nothing but the standard
library, NumPy and what that environment holds. One request a line on standard input; one answer a line on what was
standard output; whatever a library prints goes to standard error. The requests:

``{"do": "versions"}``
    Versions of Python and of every package in the environment.
``{"do": "convert", "source": path, "target": path, "options": {}}``
    Write the format that the driver reads; the answer has `seconds`, `cpu_seconds` and `peak_rss_bytes`.
``{"do": "open", "path": path, "options": {}}``
    Open the data for reading; `seconds`.
``{"do": "sample", "out": path, "batches": n}``
    Store cell numbers and log1p rows of the loop's first batches in an ``.npz`` file.
``{"do": "run", "seconds": s, "epochs": n}``
    Loop for s seconds, at most n epochs; what `timed_loop` returns.
"""

import contextlib
import importlib.metadata
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np


class Batch(NamedTuple):
    """A `Batch` is what a loop hands out."""

    rows: Any
    """Rows of the target cells, integers in the driver's order of the data; -1 for padding."""
    target: Any
    """Their log1p expression, float32 [len(rows), G]; a function that returns it where making it is no part of the
    loop, as for cells staged as CSR."""
    control_rows: int = 0
    """How many rows of control cells were read beside them."""


class Reader(Protocol):
    """A `Reader` is an open data set."""

    cell_of_row: np.ndarray
    """The number that each row has in the screen all formats were made from."""

    def batches(self) -> Iterator[Batch]:
        """Loop over one epoch."""
        ...


_answers: TextIO = sys.stdout


def serve(
    open_data: Callable[[Path, dict[str, Any]], Reader] | None = None,
    convert: Callable[[Path, Path, dict[str, Any]], None] | None = None,
    **more: Callable[..., Any],
) -> None:
    """Answer requests until standard input ends; an error is an answer, and the driver goes on."""
    _own_standard_output()
    reader: Reader | None = None
    while (request := next_request()) is not None:
        try:
            match request.pop("do"):
                case "versions":
                    answer = versions()
                case "convert":
                    assert convert is not None, "this driver's data are not converted"
                    answer = _timed(convert, Path(request["source"]), Path(request["target"]), request["options"])
                case "open":
                    assert open_data is not None, "this driver has no loop"
                    before = time.monotonic()
                    reader = open_data(Path(request["path"]), request["options"])
                    answer = {"seconds": time.monotonic() - before}
                case "sample":
                    assert reader is not None, "open comes first"
                    answer = _sample(reader, Path(request["out"]), request["batches"])
                case "run":
                    assert reader is not None, "open comes first"
                    answer = timed_loop(reader, **request)
                case other:
                    answer = more[other](**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        send_answer(answer)


def next_request() -> dict[str, Any] | None:
    """Return the next request, None where there are no more; for work that is told on the way how to go on."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def send_answer(answer: dict[str, Any]) -> None:
    """Answer a request."""
    print(json.dumps(answer), file=_answers, flush=True)


def timed_loop(reader: Reader, seconds: float, epochs: int | None = None) -> dict[str, Any]:
    """Loop over epochs for `seconds`, at most `epochs`; the first batch and what led to it are counted apart.

    Returns
    -------
    dict
        `begin`, `end` (system-wide monotonic clock), `cpu_seconds` (this process and its children),
        `first_batch_seconds`, `cells` (target cells handed out), `distinct_cells` (counted anew each epoch),
        `control_rows`, `epochs` (that were begun), `peak_rss_bytes`, `own_bytes` (memory that is not file cache).
    """
    before = time.monotonic()
    batches = iter(reader.batches())
    next(batches)
    begin, cpu = time.monotonic(), cpu_seconds()
    seen: list[list[Any]] = [[]]
    control_rows = 0
    while time.monotonic() - begin < seconds:
        batch = next(batches, None)
        if batch is None:
            if len(seen) == epochs:
                break
            batches = iter(reader.batches())
            seen.append([])
            continue
        seen[-1].append(batch.rows)
        control_rows += batch.control_rows
    end, cpu = time.monotonic(), cpu_seconds() - cpu
    used = memory()
    with contextlib.suppress(AttributeError):  # only generators have it
        batches.close()  # type: ignore[attr-defined]
    rows_seen = [_filled(rows) for rows in seen if rows]
    return {
        "begin": begin,
        "end": end,
        "cpu_seconds": cpu,
        "first_batch_seconds": begin - before,
        "cells": sum(map(len, rows_seen)),
        "distinct_cells": sum(len(np.unique(rows)) for rows in rows_seen),
        "control_rows": control_rows,
        "epochs": len(seen),
        **used,
    }


def _filled(parts: list[Any]) -> np.ndarray:
    """Join rows of batches, padding left out."""
    rows = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
    return rows[rows >= 0]


def _sample(reader: Reader, out: Path, n_batches: int) -> dict[str, Any]:
    batches = iter(reader.batches())
    cells, expression = [], []
    for _, batch in zip(range(n_batches), batches, strict=False):
        target = np.asarray(batch.target() if callable(batch.target) else batch.target)
        rows = np.asarray(batch.rows).reshape(-1)
        filled = rows >= 0
        cells.append(reader.cell_of_row[rows[filled]])
        expression.append(target.reshape(len(rows), -1)[filled].copy())
    np.savez(out, cells=np.concatenate(cells), expression=np.concatenate(expression))
    return {"cells": sum(map(len, cells))}


def _timed(work: Callable[..., None], *arguments: Any) -> dict[str, Any]:
    before, cpu = time.monotonic(), cpu_seconds()
    work(*arguments)
    seconds, cpu = time.monotonic() - before, cpu_seconds() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_rss_bytes": memory()["peak_rss_bytes"]}


def _own_standard_output() -> None:
    """Keep standard output for answers, and send what libraries print to standard error."""
    global _answers
    _answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


def versions() -> dict[str, Any]:
    """Return the versions of Python and of every package."""
    packages = {item.metadata["Name"]: item.version for item in importlib.metadata.distributions()}
    return {"python": sys.version.split()[0], "packages": dict(sorted(packages.items(), key=lambda item: item[0]))}


def _processes() -> list[Path]:
    """Return /proc folders of this process and all that descend from it."""
    found = [Path(f"/proc/{os.getpid()}")]
    for process in found:
        with contextlib.suppress(OSError):
            for thread in (process / "task").iterdir():
                found += [Path("/proc") / child for child in (thread / "children").read_text().split()]
    return found


def cpu_seconds() -> float:
    """Return user and system time of this process, of its children that live, and of those that ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for process in _processes()[1:]:
        with contextlib.suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return time.process_time() + ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def memory() -> dict[str, int]:
    """Return the peak of resident memory, and what is no file cache, of this process and all it has started."""
    peak = own = 0
    for process in _processes():
        with contextlib.suppress(OSError):
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
            peak += 1024 * int(status["VmHWM"].split()[0])
            own += 1024 * int(status["RssAnon"].split()[0])
    return {"peak_rss_bytes": peak, "own_bytes": own}
