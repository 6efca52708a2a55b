"""A benchmark's result as files: JSON, and a table and a plot that are made from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_files(
    result: dict[str, Any],
    out: Path,
    name: str,
    markdown: Callable[[dict[str, Any]], str],
    plot: Callable[[dict[str, Any], Path], None],
) -> dict[str, Path]:
    """Write ``NAME.json``, ``NAME.md`` and ``NAME.svg``.

    Parameters
    ----------
    result : dict
        What was measured.
    out : Path
        Directory; made if need be.
    name : str
        Of the files.
    markdown, plot : callable
        Make the text, and draw the result into a file.

    Returns
    -------
    dict
        The files, by ending.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = {ending: out / f"{name}.{ending}" for ending in ("json", "md", "svg")}
    files["json"].write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    files["md"].write_text(markdown(result), encoding="utf-8")
    plot(result, files["svg"])
    return files
