"""A file is damaged, and a command that reads it must refuse it, or do what it does without the damage."""

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

from faults.sandbox import Found
from faults.trials import ERROR, IDENTICAL, Trial, register, register_each

WRONG = (None, True, -1, 0, 2**70, 1e400, float("nan"), "", "x", "\x1b[2J", "[/red]", [], [[]], {}, {"a": {"b": []}})
"""Values that stand where another kind of value is meant to be."""


def flip(file: Path, rng: random.Random) -> None:
    """Turn one bit over, or put noise over a part."""
    content = bytearray(file.read_bytes())
    at = rng.randrange(len(content))
    if rng.random() < 0.7:
        content[at] ^= 1 << rng.randrange(8)
    else:
        content[at : at + 64] = rng.randbytes(len(content[at : at + 64]))
    file.write_bytes(content)


def cut(file: Path, rng: random.Random) -> None:
    """Leave out the end."""
    os.truncate(file, rng.randrange(file.stat().st_size))


def swap(file: Path, rng: random.Random) -> None:
    """Exchange it with a file beside it."""
    other = rng.choice([each for each in sorted(file.parent.iterdir()) if each.is_file()])
    contents = other.read_bytes(), file.read_bytes()
    for each, content in zip((file, other), contents, strict=True):
        each.unlink(missing_ok=True)  # it may be a link to what all trials read
        each.write_bytes(content)


def link(file: Path, rng: random.Random) -> None:
    """Put a link in its place: to itself, to nothing, to a folder, or to a file beside it; or a folder, or nothing."""
    others = [each for each in sorted(file.parent.iterdir()) if each.is_file() and each != file]
    file.unlink()
    kind = rng.randrange(4)
    if kind > 1:
        file.symlink_to(rng.choice([file, file.with_name("nothing"), file.parent, *others]))
    elif kind:
        file.mkdir()


def oversize(file: Path, rng: random.Random) -> None:
    """Make it longer, by a little or by far, with zeros."""
    os.truncate(file, file.stat().st_size + rng.choice([1, 4096, 2**26]))


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
    deep = b"[" * 200_000
    file.write_bytes(rng.choice([deep + deep.replace(b"[", b"]"), deep, rng.randbytes(500), b"9" * 10_000, b"\xff"]))


BYTES = (flip, flip, flip, flip, cut, swap, link, link, link, oversize)
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


def damaged(trial: Trial, name: str, of: str, where: str = "", damages: tuple = BYTES, judge: str = "same") -> str:
    """Damage one of the files that a glob finds in a result of the workshop, and run the command that reads it.

    A good end has to be the ``same`` as without the damage; or ``any`` will do, where the file is the user's own and
    what can be read in it is meant, or where it is ``forged`` and the checksums are made to agree with it.
    """
    sound, beside = trial.base / of, trial.folder / "base"
    beside.unlink()
    beside.mkdir()
    for each in trial.base.iterdir():
        (beside / each.name).symlink_to(each)
    copy = beside / of
    copy.unlink()
    (shutil.copytree if sound.is_dir() else shutil.copyfile)(sound, copy)
    files = [file for file in sorted(copy.glob(where)) if file.is_file()] if where else [copy]
    trial.rng.choice(damages)(trial.rng.choice(files), trial.rng)
    if judge == "forged":
        sign(copy)
    command = trial.commands[name]
    outcome = trial.run(command)
    if outcome.code:
        outcome.check_error()
        if left := set(os.listdir(trial.work)) - {".store.partial"}:  # which waits for the disk to be back
            raise Found("orphan", f"refused, but left behind: {', '.join(sorted(left))}")
        return ERROR
    if judge == "same":
        trial.compare(command, outcome)
    return IDENTICAL


def regained(trial: Trial) -> str:
    """Damage a file of a finished prediction in shards: the same command makes it anew, or says why it does not."""
    command = trial.commands["shards"]
    made = trial.work / command.out
    shutil.copytree(trial.base / command.out, made, ignore=shutil.ignore_patterns(".*"))
    file = trial.rng.choice(sorted(made.iterdir()))
    trial.rng.choice(BYTES if file.suffix == ".h5ad" else (*BYTES, *TEXT))(file, trial.rng)
    done = trial.run(command)
    if done.code:
        done.check_error()
        return ERROR
    trial.compare(command, done)
    return IDENTICAL


weights, screen = "checkpoints/step=4/weights/*", "prepare 50 10, split 25 4, predict 26 4, evaluate 13 2"
register_each("damage-store", damaged, "inspect 230 30", of="store", where="**/*")
register_each("damage-checkpoint", damaged, "predict 48 10, export 19 2, serving 6 1", of="run", where=weights)
register_each("damage-exported", damaged, "import 48 10", of="exported", where="*")
register_each("damage-screen", damaged, screen, of="screen.h5ad", judge="any")
register_each("damage-predicted", damaged, "perteval 13 2", of="predicted.h5ad", judge="any")
register_each("damage-submission", damaged, "challenge 16 2", of="submission.h5ad", judge="any")
register("damage-shards", 24, 3, regained)
register_each("malformed-throughput.json", damaged, "throughput 30 3", of="throughput.json", damages=TEXT, judge="any")
register_each("forged-store", damaged, "inspect 90 12", of="store", where="**/*", judge="forged")
for of, where, counts in (
    ("run", "run.json", "predict 45 10, export 26 4, finetune 19 3"),
    ("run", "best.json", "predict 38 6"),
    ("store", "manifest.json", "inspect 45 10"),
    ("exported", "config.json", "import 38 6"),
):
    register_each(f"malformed-{where}", damaged, counts, of=of, where=where, damages=TEXT)
