"""Draw what a benchmark holds out, where the published lists of its perturbations are not at hand."""

import hashlib
from collections.abc import Collection
from dataclasses import replace

from bionemo.perteval.rules.protocol import Protocol
from bionemo.screens.errors import InputError
from bionemo.screens.labels import Condition
from bionemo.screens.split import Split


def draw_split(protocol: Protocol, observed: Collection[Condition]) -> Split:
    """Draw as many perturbations as a protocol holds out in each of its held-out contexts, the same in all of them.

    The labels are ranked by a hash, so the same names give the same split. The first ``val`` that all held-out contexts
    have (or that any has, where too few are common) are for validation, the next ``test`` for the test, or all others
    where the protocol gives no number. A context that lacks some of them holds out those that it has.

    Parameters
    ----------
    protocol
        One that says what it holds out, but not which perturbations.
    observed
        (context, perturbation) of all cells, controls included.

    Returns
    -------
    Split
        With the contexts as `observed` writes them.

    Raises
    ------
    InputError
        The protocol lists its perturbations itself, or `observed` lacks its control label, a held-out context or that
        many perturbations.
    """
    rule = protocol.held_out
    if rule is None or protocol.split is not None:
        raise InputError(f"The protocol {protocol.name!r} leaves nothing to draw: use the split that it states.")
    contexts = sorted({context for context, _ in observed if protocol.holds_out(context)})
    alone = {label: replace(protocol, held_out=replace(rule, labels=(label,))) for label in rule.labels}
    absent = [label for label, of_label in alone.items() if not any(map(of_label.holds_out, contexts))]
    if absent:
        raise InputError(
            f"{', '.join(absent)}, which the protocol {protocol.name!r} holds out, is not among the observed contexts: "
            "give all files of the data set."
        )
    if not any(perturbation == protocol.control for _, perturbation in observed):
        raise InputError(
            f"No cell has the control label {protocol.control!r} of the protocol {protocol.name!r}: give all files of "
            "the data set."
        )
    measured = {c: frozenset(p for context, p in observed if context == c) - {protocol.control} for c in contexts}
    ranked = sorted(set().union(*measured.values()), key=lambda name: _rank(protocol.name, name))
    n_val, n_test = rule.val or 0, rule.test
    common = [name for name in ranked if all(name in names for names in measured.values())]
    val = (common if len(common) >= n_val else ranked)[:n_val]
    test = [name for name in ranked if name not in val][:n_test]
    if len(val) < n_val or len(test) < (n_test or 1):
        raise InputError(
            f"The protocol {protocol.name!r} holds out {n_val + (n_test or 1)} perturbations at least, and its "
            f"contexts have {len(ranked)}: give all files of the data set."
        )
    return Split(
        fewshot={context: {"val": names & set(val), "test": names & set(test)} for context, names in measured.items()}
    )


def drawn_departures(protocol: Protocol, split: Split | None, observed: Collection[Condition]) -> list[str]:
    """Say that a split is the drawn one, and so not of the perturbations that the published scores are of."""
    if split is None or protocol.held_out is None or protocol.split is not None:
        return []
    try:
        drawn = draw_split(protocol, observed)
    except InputError:
        return []
    if drawn.hash != split.hash:
        return []
    return ["the held-out perturbations were drawn by `bionemo-scale split`, which are not the published ones"]


def _rank(protocol: str, name: str) -> bytes:
    return hashlib.sha256(f"{protocol}\n{name}".encode()).digest()
