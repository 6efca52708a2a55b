"""Make the report of a benchmark from its JSON alone: tables in Markdown, and bars with whiskers.

`described` makes what every result begins with: schema, start, duration, command, machine and settings.
"""

import contextlib
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bionemo.screens.errors import InputError
from bionemo.screens.making import file_made_whole, scratch_folder

Result = dict[str, Any]


def described(schema: str, began: float, machine: Result, settings: Result) -> Result:
    """Return what every result begins with; `began` is what `time.monotonic` said at the start."""
    return {
        "schema": schema,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "took_seconds": time.monotonic() - began,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "machine": machine,
        "settings": settings,
    }


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the file system refuses into an InputError about a place."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{place} cannot be written ({error.strerror or error}): free space there, or name another place."
        ) from error


def write_json(content: Any, out: Path) -> None:
    """Write a JSON file, whole or not at all.

    Raises
    ------
    InputError
        It cannot be written, or another process is writing it.
    """
    with writing(out), file_made_whole(out) as new:
        new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _no_empty(out: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something is in it
            out.rmdir()
        raise


def write_files(
    result: Result,
    out: Path,
    name: str,
    markdown: Callable[[Result], str],
    plot: Callable[[Result, Path], None] | None = None,
) -> dict[str, Path]:
    """Write ``NAME.json``, ``NAME.md`` and, where there is a plot, ``NAME.svg``; return the files by ending.

    `markdown` makes the text of a result, and `plot` draws it into a file. Each file is moved in whole. Where this
    fails an empty directory is removed.

    Raises
    ------
    InputError
        The files cannot be written, or another process is writing them.
    """
    endings = ("json", "md") if plot is None else ("json", "md", "svg")
    files = {ending: out / f"{name}.{ending}" for ending in endings}
    with writing(out), _no_empty(out), scratch_folder(files["json"]) as folder:
        (folder / files["json"].name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (folder / files["md"].name).write_text(markdown(result), encoding="utf-8")
        if plot is not None:
            plot(result, folder / files["svg"].name)
        for file in files.values():
            os.replace(folder / file.name, file)
    return files


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Return a Markdown table whose first `left` columns are set to the left; nothing where there is no row."""
    if not rows:
        return ""
    lines = [head, tuple("---" if place < left else "---:" for place in range(len(head))), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def listed(lines: Sequence[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def spread(found: dict[str, float], form: str = ",.0f") -> str:
    """Return a median with the least and the greatest of the repetitions."""
    return f"{found['median']:{form}} ({found['least']:{form}} to {found['greatest']:{form}})"


def memory(runs: Sequence[Result]) -> tuple[str, str]:
    """Return the peak of the resident memory and of the process's own, in MB, over an arm's repetitions."""
    peak, own = (max(run[name] for run in runs) / 1e6 for name in ("peak_rss_bytes", "own_bytes"))
    return f"{peak:,.0f}", f"{own:,.0f}"


def screen_line(size: Result) -> str:
    """Return what the screen was."""
    return (
        f"{size['cells']:,} cells x {size['genes']:,} genes, {size['values_per_cell']} values a cell, "
        f"{size['contexts']} contexts x {size['perturbations']} perturbations"
    )


def machine_line(machine: Result) -> str:
    """Return what the machine was."""
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB"
    return f"{machine['cpu']}, {machine['cores']} cores, {memory}, Linux {machine['kernel']}"


def formats_table(result: Result, cells: int) -> str:
    """Return the table of the formats: of what each was made, its size, and what its making took."""
    rows = [
        (
            name,
            made["source"],
            f"{made['bytes'] / cells:,.0f}",
            f"{made['seconds']:,.1f}",
            f"{cells / made['seconds']:,.0f}",
            f"{made['peak_rss_bytes'] / 1e6:,.0f}",
        )
        for name, made in result["formats"].items()
    ]
    return table(("format", "made of", "bytes/cell", "seconds", "cells/s", "peak RSS, MB"), rows, left=2)


def bar(axis: Any, place: int, found: dict[str, float], **style: Any) -> None:
    """Draw a median as a bar whose whiskers go from the least to the greatest."""
    whiskers = [[found["median"] - found["least"]], [found["greatest"] - found["median"]]]
    axis.barh(place, found["median"], xerr=whiskers, edgecolor="black", linewidth=0.8, capsize=2, **style)


def grid(axis: Any) -> None:
    """Draw light lines behind the bars."""
    axis.grid(axis="x", color="0.8", linewidth=0.6)
    axis.set_axisbelow(True)
