"""A trial: one disturbed command in a folder of its own, judged by what is there after it was started again."""

import fcntl
import functools
import os
import random
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import sandbox
from faults.results import check_losses, difference, digest
from faults.sandbox import Found, Outcome
from faults.workshop import Command, place

IDENTICAL, ERROR = "identical", "clear error"
COLUMNS = (IDENTICAL, ERROR, "traceback", "silent wrong", "lost", "orphan", "hang")
"""Ways in which a trial may end; those after the second are failures."""


@dataclass(frozen=True)
class Kind:
    """A `Kind` says how often a trial is run in the whole campaign and the short one, what it does, and its type."""

    name: str
    type: str
    whole: int
    short: int
    run: Callable[["Trial"], str]


KINDS: dict[str, Kind] = {}


def register(name: str, whole: int, short: int, run: Callable[..., str], type: str = "", /, **told: Any) -> None:
    """Add a kind of trial. Its function takes a trial, answers IDENTICAL or ERROR, and raises `Found`."""
    KINDS[name] = Kind(name, type or name, whole, short, functools.partial(run, **told))


def register_each(prefix: str, run: Callable[..., str], counts: str, **told: Any) -> None:
    """Add a kind for each command: `counts` has its name, how often it is run, and how often in the short campaign."""
    for each in counts.split(", "):
        name, whole, short = each.split()
        register(f"{prefix}-{name}", int(whole), int(short), run, prefix, name=name, **told)


@dataclass
class Trial:
    """A `Trial` is the n-th of its kind: all that it draws comes from its seed, kind and number."""

    kind: str
    number: int
    seed: int
    base: Path
    folder: Path
    commands: dict[str, Command]
    rng: random.Random = field(init=False)
    runs: int = 0

    def __post_init__(self):
        self.rng = random.Random(zlib.crc32(f"{self.seed}/{self.kind}/{self.number}".encode()))
        shutil.rmtree(self.folder, ignore_errors=True)
        place(self.base, self.folder)

    @property
    def work(self) -> Path:
        """Return the folder that commands run in."""
        return self.folder / "work"

    def turn(self, choices: Sequence[Any]) -> Any:
        """Return one of some choices: a kind takes each in turn, in an order of its own, so that few trials differ."""
        order = random.Random(f"{self.seed}/{self.kind}").sample(choices, len(choices))
        return order[self.number % len(order)]

    def start(self, words: Command | Sequence[object], **options) -> sandbox.Running:
        """Start a command and do not wait for it; see :func:`sandbox.start`."""
        seconds = words.seconds if isinstance(words, Command) else 2.0
        if isinstance(words, Command):
            options.setdefault("real", words.real)
        limit = options.pop("limit", sandbox.HANG + 10 * seconds + (60 if options.get("real") else 0))
        self.runs += 1
        words = words.words if isinstance(words, Command) else words
        return sandbox.start(words, self.work, self.folder / f"run{self.runs}", limit=limit, **options)

    def run(self, words: Command | Sequence[object], **options) -> Outcome:
        """Run a command to its end."""
        return self.start(words, **options).finish()

    def settle(self, command: Command, first: Outcome | None = None) -> str:
        """Start a command again, undisturbed, and compare what it leaves with what it is known to leave.

        The ``first`` try, if it was to end well or with a sentence, is judged as well.
        """
        out = self.work / command.out
        if first is not None and first.code and first.code not in (-2, -15):
            first.check_error()
        if first is not None and first.code == 0:
            self.compare(command, first)
        there = bool(command.out) and not difference(digest(out), dict(command.digest))
        if command.out and out.is_file() and not there:
            raise Found("silent wrong", f"{command.out} was left half written under its name")
        if command.name == "overwrite" and (look := self.run(["bionemo-scale", "inspect", "store"])).code:
            raise Found("lost", f"neither the old nor the new store is there: {look.sentence}")
        again = self.run(command)
        if again.code and not (there and "exists" in again.err):
            raise Found("lost", f"the second try fails: {again.sentence}")
        if not again.code:
            self.compare(command, again)
        left = set(os.listdir(self.work)) - {command.out}
        if left:
            raise Found("orphan", f"left behind: {', '.join(sorted(left))}")
        return IDENTICAL if first is None or not first.code else ERROR

    def compare(self, command: Command, outcome: Outcome) -> None:
        """Raise unless a command that ended well left what it is known to leave."""
        out = self.work / command.out
        other = difference(digest(out), dict(command.digest)) if command.out else ""
        if other:
            raise Found("silent wrong", f"exit 0, but different: {other[:300]}")
        if not command.out and outcome.out != command.printed:
            raise Found("silent wrong", f"exit 0, but printed: {outcome.out[-300:]}")
        if command.out == "run":
            check_losses(out, self.base / "first" / command.name / "work" / "run")

    def command(self, name: str) -> Command:
        """Return a command, with what it leaves undisturbed."""
        command = self.commands[name]
        return command if command.digest or not command.out else self._found(command)

    def other(self, name: str, like: str, *words: str) -> Command:
        """Return a real command with more words."""
        like_command = self.commands[like]
        return self._found(
            Command(name, (*like_command.words, *words), like_command.out, 20.0, like_command.operations, real=True)
        )

    def _found(self, command: Command) -> Command:
        """Return a command with what it leaves undisturbed, which is found out once, for all trials."""
        folder = self.base / "first" / command.name
        with (self.base / f"{command.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                partial = self.base / f"{command.name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                work, log = place(self.base, partial), self.base / command.name
                outcome = sandbox.start(command.words, work, log, real=command.real, limit=600).finish()
                if outcome.code:
                    raise Found("lost", f"undisturbed it fails: {outcome.sentence}")
                partial.rename(folder)
        return command.known(digest(folder / "work" / command.out))
