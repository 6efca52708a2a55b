"""Say what an evaluation lacks of the whole protocol that it names."""

from collections.abc import Collection, Mapping

from bionemo.screens.drawn_split import draw_split
from bionemo.screens.errors import InputError
from bionemo.screens.labels import Condition
from bionemo.screens.protocol import Protocol
from bionemo.screens.split import Split


def gene_departures(protocol: Protocol, hvg_from: Mapping[str, str | None]) -> list[str]:
    """Say whose genes came from other cells than the protocol's, or from nobody knows where.

    Parameters
    ----------
    protocol
        The rules.
    hvg_from
        Prediction -> which of `HVG_SOURCES` chose its genes; None where nobody said.
    """
    means = {"train": "on the training cells", "all": "on all cells", "given": "before, as the panel of the data"}
    found = []
    for name, source in hvg_from.items():
        if source is None:
            found.append(f"nothing says which cells chose the genes of {name}; the protocol says {protocol.hvg_from!r}")
        elif source != protocol.hvg_from:
            found.append(
                f"the genes of {name} were chosen {means[source]} (hvg_from {source!r}), and the protocol says "
                f"{protocol.hvg_from!r}"
            )
    return found


def departures(
    protocol: Protocol, scored: Collection[Condition], split: Split | None, observed: Collection[Condition]
) -> list[str]:
    """Say what the scored conditions lack of the whole protocol; empty where they are all of it.

    Parameters
    ----------
    protocol
        The rules.
    scored
        Conditions with a prediction.
    split
        Which perturbations are held out; None where nobody said.
    observed
        All observed conditions, controls too.
    """
    rule = protocol.held_out
    if split is None:
        where = f" (they are listed in {rule.listed_in})" if rule and rule.listed_in else ""
        return [f"no split file says which perturbations are held out{where}"]
    found = []
    if rule is not None:
        contexts = {context for context, _ in observed}
        absent = rule.absent(contexts)
        if absent:
            found.append(f"the observed file has no cells of {', '.join(absent)}")
        unlisted = sorted(c for c in contexts if protocol.holds_out(c) and c not in split.fewshot)
        if unlisted:
            found.append(f"the split lists no held-out perturbations in {', '.join(unlisted)}")
        for context, parts in sorted(split.fewshot.items()):
            for part, wanted in (("val", rule.val), ("test", rule.test)):
                size = len(parts.get(part, ()))
                if wanted is not None and size != wanted:
                    found.append(f"the split lists {size} {part} perturbations in {context} and not {wanted}")
    tested = {(c, p) for c, p in observed if p != protocol.control and split.part(c, p) == "test"}
    unpredicted = len(tested - set(scored))
    if unpredicted:
        found.append(f"{unpredicted} of {len(tested)} observed test conditions have no prediction")
    return found


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
