"""A file is damaged, and a command that reads it must refuse it, or do what it does without the damage."""

import functools
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

from faults.sandbox import Found
from faults.trials import ERROR, IDENTICAL, Trial, register

WRONG = (None, True, -1, 0, 2**70, 1e400, float("nan"), "", "x", "\x1b[2J", "[/red]", [], [[]], {}, {"a": {"b": []}})
"""Values that stand where another kind of value is meant to be."""


def flip(file: Path, rng: random.Random) -> None:
    """Turn one bit over."""
    content = bytearray(file.read_bytes())
    at = rng.randrange(len(content))
    content[at] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def cut(file: Path, rng: random.Random) -> None:
    """Leave out the end."""
    os.truncate(file, rng.randrange(file.stat().st_size))


def swap(file: Path, rng: random.Random) -> None:
    """Exchange it with a file beside it."""
    other = rng.choice([each for each in sorted(file.parent.iterdir()) if each.is_file()])
    content = other.read_bytes()
    other.write_bytes(file.read_bytes())
    file.write_bytes(content)


def link(file: Path, rng: random.Random) -> None:
    """Put a link in its place: to itself, to nothing, to a folder, or to a file beside it."""
    others = [each for each in sorted(file.parent.iterdir()) if each.is_file() and each != file]
    target = rng.choice([file, file.with_name("nothing"), file.parent, *others])
    file.unlink()
    file.symlink_to(target)


def folder(file: Path, rng: random.Random) -> None:
    """Put a folder in its place."""
    file.unlink()
    file.mkdir()


def remove(file: Path, rng: random.Random) -> None:
    """Take it away."""
    file.unlink()


def oversize(file: Path, rng: random.Random) -> None:
    """Make it longer, by a little or by far, with zeros."""
    os.truncate(file, file.stat().st_size + rng.choice([1, 4096, 2**26]))


def overwrite(file: Path, rng: random.Random) -> None:
    """Put noise over a part of it."""
    content = bytearray(file.read_bytes())
    at = rng.randrange(len(content))
    content[at : at + 64] = rng.randbytes(len(content[at : at + 64]))
    file.write_bytes(content)


def malform(file: Path, rng: random.Random) -> None:
    """Put a value of another kind into a JSON file, or take one away."""
    content = node = json.loads(file.read_text())
    while True:
        key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if rng.random() < 0.4 or not isinstance(node[key], dict | list) or not node[key]:
            break
        node = node[key]
    if rng.random() < 0.3:
        del node[key]
    else:
        node[key] = rng.choice(WRONG)
    file.write_text(json.dumps(content))


def nest(file: Path, rng: random.Random) -> None:
    """Make a text file deep, binary, or of one long number."""
    deep = 200_000
    file.write_bytes(
        rng.choice([b"[" * deep + b"]" * deep, b'{"a":' * deep, rng.randbytes(500), b"9" * 10_000, b"\xff"])
    )


BYTES = (flip, flip, flip, cut, swap, link, folder, remove, oversize, overwrite)
TEXT = (malform, malform, malform, malform, nest)


def sign(store: Path) -> None:
    """Make the checksums of a store agree with its files, as one would who wants the damage to pass."""
    from bionemo.cellsets.store.manifest import sealed

    try:
        manifest = json.loads((store / "manifest.json").read_text())
        for name, entry in manifest["files"].items():
            content = (store / name).read_bytes()
            entry["bytes"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        (store / "manifest.json").write_text(json.dumps(sealed(manifest)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # the damage is beyond forgery


def damaged(
    trial: Trial,
    of: str,
    where: str,
    reader: str,
    damages: tuple = BYTES,
    forged: bool = False,
    may_differ: bool = False,
) -> str:
    """Damage one file of a result, and run a command that reads the result.

    Parameters
    ----------
    trial
        The trial.
    of, where
        A result of the workshop, a file or a folder, and the files of it that may be hit, as a glob.
    reader
        The command, which is told to read the damaged copy.
    damages
        What may be done to the file.
    forged
        Whether checksums are made to agree with the damage.
    may_differ
        Whether the content is the user's own, so that a readable change of it is a change of the result.
    """
    sound, beside = trial.base / of, trial.folder / "base"
    beside.unlink()
    beside.mkdir()
    for each in trial.base.iterdir():
        (beside / each.name).symlink_to(each)
    copy = beside / of
    copy.unlink()
    (shutil.copytree if sound.is_dir() else shutil.copyfile)(sound, copy)
    files = [file for file in sorted(copy.glob(where)) if file.is_file()] if sound.is_dir() else [copy]
    trial.rng.choice(damages)(trial.rng.choice(files), trial.rng)
    if forged:
        sign(copy)
    command = trial.commands[reader]
    outcome = trial.run(command)
    if outcome.code:
        outcome.check_error()
        left = os.listdir(trial.work)
        if left:
            raise Found("orphan", f"refused, but left behind: {', '.join(sorted(left))}")
        return ERROR
    if not forged and not may_differ:
        trial.compare(command, outcome)
    return IDENTICAL


for of, where, reader, whole, short in (
    *(("store", "*", "inspect", 500, 50), ("run", "checkpoints/step=4/weights/*", "predict", 100, 10)),
    *(("run", "checkpoints/step=4/weights/*", "export", 30, 2), ("exported", "*", "import", 100, 10)),
):
    register(f"damage-{of}-{reader}", whole, short, functools.partial(damaged, of=of, where=where, reader=reader))
for of, where, reader, whole, short in (
    *(("run", "run.json", "predict", 100, 10), ("run", "best.json", "predict", 60, 6)),
    *(("run", "run.json", "export", 40, 4), ("run", "run.json", "finetune", 30, 3)),
    *(("store", "manifest.json", "inspect", 100, 10), ("exported", "config.json", "import", 60, 6)),
):
    run = functools.partial(damaged, of=of, where=where, reader=reader, damages=TEXT)
    register(f"malformed-{where}-{reader}", whole, short, run)
for reader, whole, short in (("inspect", 200, 20),):
    run = functools.partial(damaged, of="store", where="*", reader=reader, forged=True)
    register(f"forged-store-{reader}", whole, short, run)
for of, reader, whole, short in (
    *(("screen.h5ad", "prepare", 120, 10), ("screen.h5ad", "split", 60, 4), ("screen.h5ad", "predict", 40, 4)),
    *(("screen.h5ad", "evaluate", 20, 2), ("predicted.h5ad", "perteval", 20, 2)),
):
    # Such files have no checksums: what is readable in them is the user's own.
    run = functools.partial(damaged, of=of, where="", reader=reader, may_differ=True)
    register(f"damage-{of}-{reader}", whole, short, run)
