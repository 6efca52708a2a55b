"""Print the table of a campaign, and of every failure the command that repeats it."""

import collections

from faults.trials import COLUMNS, KINDS


def print_table(ended: list[tuple[str, int, str, str]], seed: int) -> bool:
    """Print how trials ended, each given as (kind, number, column, words); return whether any failed."""
    counts: dict[str, collections.Counter] = {}
    for kind, _, column, _ in ended:
        counts.setdefault(KINDS[kind].type, collections.Counter())[column] += 1
    width = max(map(len, [*counts, "all"]))
    line = f"{{:{width}}} {{:>7}}" + "".join(f" {{:>{max(len(column), 5)}}}" for column in COLUMNS)
    print(line.format("trial", "count", *COLUMNS))
    for kind in sorted(counts):
        print(line.format(kind, counts[kind].total(), *(counts[kind][column] or "" for column in COLUMNS)))
    total = sum(counts.values(), collections.Counter())
    print(line.format("all", total.total(), *(total[column] or "" for column in COLUMNS)), flush=True)
    failed = [each for each in sorted(ended) if each[2] in COLUMNS[2:]]
    for kind, number, column, words in failed:
        print(f"\n{kind} {number}: {column}: {words}\n  {repeat(kind, number, seed)}")
    return bool(failed)


def repeat(kind: str, number: int, seed: int) -> str:
    """Return the command that repeats one trial."""
    return f"python tests/faults/run.py --only {kind} --seed {seed} --trial {number}"
