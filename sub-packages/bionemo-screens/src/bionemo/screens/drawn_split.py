"""Draw what a benchmark holds out, where the published lists of its perturbations are not at hand."""

import hashlib
from collections.abc import Collection

from bionemo.screens.errors import InputError, name_list
from bionemo.screens.labels import Condition
from bionemo.screens.protocol import Protocol
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
        Its contexts are as `observed` writes them.

    Raises
    ------
    InputError
        The protocol lists its perturbations itself, or `observed` lacks its control label, a held-out context or that
        many perturbations.
    """
    rule = protocol.held_out
    if rule is None or protocol.split is not None:
        raise InputError(f"The protocol '{protocol.name}' leaves nothing to draw: use the split that it states")
    contexts = sorted({context for context, _ in observed if protocol.holds_out(context)})
    absent = rule.absent(contexts)
    if absent:
        raise InputError(
            f"The protocol '{protocol.name}' holds out {name_list(absent)}, and no observed context is one of these: "
            "give all files of the data set"
        )
    if not any(perturbation == protocol.control for _, perturbation in observed):
        raise InputError(
            f"No cell has the control label '{protocol.control}' of the protocol '{protocol.name}': give all files of "
            "the data set"
        )
    measured = {c: frozenset(p for context, p in observed if context == c) - {protocol.control} for c in contexts}
    ranked = sorted(
        frozenset().union(*measured.values()),
        key=lambda label: hashlib.sha256(f"{protocol.name}\n{label}".encode()).digest(),
    )
    n_val, n_test = rule.val or 0, rule.test
    common = [label for label in ranked if all(label in labels for labels in measured.values())]
    val = (common if len(common) >= n_val else ranked)[:n_val]
    test = [label for label in ranked if label not in val][:n_test]
    if len(val) < n_val or len(test) < (n_test or 1):
        raise InputError(
            f"The protocol '{protocol.name}' holds out {n_val + (n_test or 1)} perturbations at least, and its "
            f"contexts have {len(ranked)}: give all files of the data set"
        )
    return Split(
        fewshot={
            context: {"val": labels & set(val), "test": labels & set(test)} for context, labels in measured.items()
        }
    )
