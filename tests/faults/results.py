"""Say what a command left, so that two results can be compared to the bit."""

import hashlib
import json
from pathlib import Path

from faults.sandbox import Found

_PASSING = ("logs", "tensorboard", "profile")
"""Folders of a run whose content has times in it."""


def digest(path: Path) -> dict[str, str]:
    """Return a hash of every file that a command left; of a store, a run or a checkpoint, of what it means."""
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
        content = file.read_bytes()
        if file.name == "manifest.json":  # it says when the inputs were changed
            content = json.loads(content)["fingerprint"].encode()
        found[str(name)] = _hash(content)
    return found


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
