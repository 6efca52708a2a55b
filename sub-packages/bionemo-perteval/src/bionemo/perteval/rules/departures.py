"""Say what an evaluation lacks of the whole protocol that it names."""

from collections.abc import Collection, Mapping

from bionemo.screens.labels import Condition
from bionemo.screens.protocol import Protocol
from bionemo.screens.split import Split


def gene_departures(protocol: Protocol, hvg_from: Mapping[str, str | None]) -> list[str]:
    """Say whose genes came from other cells than the protocol's, or from nobody knows where.

    `hvg_from` is prediction -> which of `HVG_SOURCES` chose its genes; None where nobody said.
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

    `split` says which perturbations are held out, None where nobody said; `observed` are all conditions, controls too.
    """
    if split is None:
        return ["no split file says which perturbations are held out"]
    found = []
    rule, listed = protocol.held_out, protocol.split_of(observed)
    if rule is not None:
        held_out = [(context, name) for context, name in observed if protocol.holds_out(context)]
        absent = rule.absent({context for context, _ in observed})
        if absent:
            found.append(f"the observed file has no cells of {', '.join(absent)}")
        unseen = rule.listed - {name for _, name in held_out}
        if unseen:
            found.append(
                f"{len(unseen)} of {len(rule.listed)} listed perturbations have no cells in a held-out context"
            )
        unlisted = sorted({context for context, _ in held_out} - set(split.fewshot))
        if unlisted and not rule.listed:
            found.append(f"the split lists no held-out perturbations in {', '.join(unlisted)}")
    if listed is not None:
        otherwise = sum(split.part(*condition) != listed.part(*condition) for condition in observed)
        if otherwise:
            found.append(f"the split places {otherwise} observed conditions in another part than the protocol's lists")
    tested = {(c, p) for c, p in observed if p != protocol.control and split.part(c, p) == "test"}
    unpredicted = len(tested - set(scored))
    if unpredicted:
        found.append(f"{unpredicted} of {len(tested)} observed test conditions have no prediction")
    return found
