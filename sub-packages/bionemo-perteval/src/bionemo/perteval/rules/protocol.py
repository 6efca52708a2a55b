"""What a number was measured under: columns, normalisation, genes, and what had to be held out."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from bionemo.screens.errors import InputError
from bionemo.screens.labels import Condition
from bionemo.screens.split import Split

HVG_SOURCES = ("train", "all", "given")
"""Cells that chose the genes: the training cells, all cells, or none because the panel came with the data."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a benchmark keeps from the training.

    Attributes
    ----------
    column
        The column of the context key whose labels are held out.
    labels
        Those labels. Capitals do not count, because the public files differ in them.
    val, test
        Perturbations per held-out context; None where all others are meant or the number is not known.
    listed_in
        Where the names of the perturbations stand.
    """

    column: str
    labels: tuple[str, ...]
    val: int | None = None
    test: int | None = None
    listed_in: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Scores that a paper printed for a protocol.

    Attributes
    ----------
    model, source
        Whose scores, and where they stand.
    scores
        Name of a metric -> score.
    not_comparable
        Metrics that depend on what the paper does not state.
    """

    model: str
    source: str
    scores: Mapping[str, float]
    not_comparable: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of a benchmark.

    Attributes
    ----------
    name, title
        Name of its file without the ending, and what people call it.
    perturbation_key, control, context_key, batch_key
        Columns of `obs`, and the label of control cells.
    target_sum
        Counts per cell before log1p; None where the data are normalised already.
    n_genes, hvg_from
        How many genes, and which of `HVG_SOURCES` chose them.
    aggregate
        What means go over; there is only ``"context"``: perturbations inside a context, then contexts.
    held_out
        What must not train; None where the split alone says it.
    split
        The held-out conditions, where the protocol lists them itself.
    published
        Scores to print beside.
    """

    name: str
    title: str
    perturbation_key: str
    control: str
    context_key: str
    batch_key: str | None = None
    target_sum: float | None = None
    n_genes: int | None = None
    hvg_from: str = "train"
    aggregate: str = "context"
    held_out: HeldOut | None = None
    split: Split | None = None
    published: tuple[Published, ...] = field(default=())

    @property
    def hash(self) -> str:
        """SHA-256 of the rules as sorted JSON; name, title, published scores and layout of the file do not count."""
        rules = {key: value for key, value in vars(self).items() if key not in {"name", "title", "published"}}
        rules["held_out"] = None if self.held_out is None else vars(self.held_out)
        rules["split"] = None if self.split is None else self.split.to_dict()
        canonical = json.dumps(rules, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def holds_out(self, context: str) -> bool:
        """Say whether a context is one of the held-out ones."""
        return self.held_out is None or any(_has(context, label) for label in self.held_out.labels)

    def check_contexts(self, contexts: Collection[str]) -> None:
        """Refuse to score a context that the protocol trains on."""
        for context in sorted(contexts):
            if not self.holds_out(context):
                labels = self.held_out.labels if self.held_out else ()
                raise InputError(
                    f"Context {context!r} is scored, but the protocol {self.name!r} holds out only "
                    f"{', '.join(labels)}; drop it from the prediction."
                )


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
        absent = [label for label in rule.labels if not any(_has(context, label) for context in contexts)]
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


def _has(context: str, label: str) -> bool:
    """Say whether a context, or a context joined of several columns by plus signs, has a label."""
    # Labels may hold a plus themselves (CD14+ monocytes), so a joined context cannot be cut apart.
    return f"+{label}+".casefold() in f"+{context}+".casefold()
