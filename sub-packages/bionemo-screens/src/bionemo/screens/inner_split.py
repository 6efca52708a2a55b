"""Hold out some training conditions as validation conditions, where a split marks none."""

import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from bionemo.screens.labels import Condition
from bionemo.screens.split import Split

LEAST, MOST, SHARE = 4, 64, 0.1
"""How many training conditions are held out: a tenth of them, at least and at most so many."""
FEWEST = 2
"""So many do where no more can be held out."""


def inner_split(split: Split, observed: Collection[Condition], control: str) -> Split | None:
    """Return a split without validation conditions with a tenth of its training conditions marked as such.

    Each of them can still be predicted from the others: its perturbation trains in another context, and its context has
    another perturbation that trains. A context with one perturbation has none, and there two other contexts train it.
    Conditions are ranked by a hash of their labels, so the same labels give the same split.

    `observed` has (context, perturbation) of all cells, controls included. None is returned where fewer than two
    conditions can be held out.
    """
    training = sorted(c for c in observed if c[1] != control and split.part(*c) == "train")
    by_context = Counter(context for context, _ in training)
    by_perturbation = Counter(perturbation for _, perturbation in training)
    alone = {context for context, count in by_context.items() if count == 1}
    wanted = min(MOST, max(LEAST, round(SHARE * len(training))))
    held_out: dict[str, set[str]] = {}
    for context, perturbation in sorted(training, key=_rank):
        here, elsewhere = by_context[context] - 1, by_perturbation[perturbation] - 1
        if wanted and (elsewhere > 1 if context in alone else here and elsewhere):
            by_context[context] -= 1
            by_perturbation[perturbation] -= 1
            held_out.setdefault(context, set()).add(perturbation)
            wanted -= 1
    if sum(map(len, held_out.values())) < FEWEST:
        return None
    fewshot = {context: dict(parts) for context, parts in split.fewshot.items()}
    for context, labels in held_out.items():
        fewshot.setdefault(context, {})["val"] = frozenset(labels)
    return replace(split, fewshot=fewshot)


def _rank(condition: Condition) -> bytes:
    return hashlib.sha256("\n".join(condition).encode()).digest()
