"""Print the table of a campaign, and of every failure the command that repeats it."""

import collections
from typing import NamedTuple

from faults.trials import COLUMNS, KINDS


class Ended(NamedTuple):
    """How one trial ended: one of `COLUMNS`, words where it failed, and the seconds that it took."""

    kind: str
    number: int
    column: str
    words: str
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether it ended in a way that is not allowed."""
        return self.column in COLUMNS[2:]


def print_table(ended: list[Ended], seed: int) -> bool:
    """Print how trials ended, and how long they took on average; return whether any failed."""
    counts: dict[str, collections.Counter] = {}
    seconds: collections.Counter[str] = collections.Counter()
    for trial in ended:
        for kind in (KINDS[trial.kind].type, "all"):
            counts.setdefault(kind, collections.Counter())[trial.column] += 1
            seconds[kind] += trial.seconds
    width = max(map(len, [*counts, "all"]))
    line = f"{{:{width}}} {{:>7}}" + "".join(f" {{:>{max(len(column), 5)}}}" for column in COLUMNS) + " {:>6}"
    print(line.format("trial", "count", *COLUMNS, "s each"))
    for kind in sorted(counts, key=lambda kind: (kind == "all", kind)):
        of, total = counts[kind], counts[kind].total()
        print(line.format(kind, total, *(of[column] or "" for column in COLUMNS), f"{seconds[kind] / total:.1f}"))
    failed = sorted(trial for trial in ended if trial.failed)
    for trial in failed:
        print(f"\n{said(trial, seed)}", flush=True)
    return bool(failed)


def said(trial: Ended, seed: int) -> str:
    """Return how a trial ended, and the command that repeats it."""
    repeated = f"python tests/faults/run.py --only {trial.kind} --seed {seed} --trial {trial.number}"
    return f"{trial.kind} {trial.number}: {trial.column}: {trial.words}\n  {repeated}"
