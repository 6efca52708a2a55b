"""Say what a command left, so that two results can be compared to the bit."""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

from faults.sandbox import Found

_PASSING = ("logs", "tensorboard", "profile", "cache")
"""Folders of a run or of a benchmark whose content has times in it."""
_MEASURED = ("loader", "throughput", "scoring", "kernels", "atlas", "serving")
"""Results of benchmarks, which have times in them; their tables and plots have the same name."""


def digest(path: Path) -> dict[str, str]:
    """Return a hash of every file that a command left; of a store, a run or a benchmark, of what it means."""
    if path.is_file() and path.stem in _MEASURED:
        return {path.name: _measured(path)}
    if path.is_file():
        return {path.name: _hash(path.read_bytes())}
    if not path.is_dir():
        return {path.name: "nothing"}
    found = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if file.is_dir() or name.parts[0] in _PASSING:
            continue
        if "weights" in name.parts and file.suffix != ".distcp":  # pickles, in which sets have no order
            continue
        if name.parts[0] == "checkpoints" and file.name == "checksums.json":  # of those
            continue
        if file.stem in _MEASURED:
            found[str(name)] = _measured(file)
            continue
        content = file.read_bytes()
        if file.name == "manifest.json":  # it says when the inputs were changed
            content = json.loads(content)["fingerprint"].encode()
        found[str(name)] = _hash(content)
    return found


def _measured(file: Path) -> str:
    """Return what does not change from one measurement to the next, or that a file is none or half of one."""
    try:
        result = json.loads(file.with_suffix(".json").read_text())
        if file.suffix == ".json":
            return json.dumps(_shape(result))
        if file.suffix == ".md":
            report = importlib.import_module(f"bionemo.bench.{file.stem}.report")
            return "of the JSON" if file.read_text() == report.markdown(result) else "of another JSON"
        return "whole" if file.read_text().rstrip().endswith("</svg>") else "half"
    except (ValueError, FileNotFoundError):  # killed between its files
        return "half"


def _shape(value: Any) -> Any:
    """Return the names in a JSON value, and what kind of value each has."""
    if isinstance(value, dict):
        return {name: _shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shape(inner) for inner in value]
    return "number" if isinstance(value, int | float) or value is None else "text"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def difference(left: dict[str, str], right: dict[str, str]) -> str:
    """Return the names that two digests do not share, or an empty string."""
    return ", ".join(name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name))


def check_losses(run: Path, whole: Path) -> None:
    """Raise unless every step of a run, repeated ones included, has the loss of the uninterrupted run."""
    from jobs import logged

    expected = logged(whole)
    for step, values in logged(run).items():
        if step in expected and set(values) != set(expected[step]):
            raise Found("silent wrong", f"step {step} has the losses {values}, not {expected[step]}")
