"""Make the tables that the commands print."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bionemo.cellsets import Inspection
from bionemo.screens.controls import ControlRole
from bionemo.screens.printable import printable


def show(table: RenderableType) -> None:
    """Print a table to standard output."""
    Console().print(table)


def inspection_table(store: Inspection) -> RenderableType:
    """Tell what a store holds: its sizes, then a row for each context."""
    facts = Table(title=_text(f"store {store.path}"), title_justify="left", show_header=False, box=None)
    facts.add_column(style="bold")
    facts.add_column()
    for name, value in (
        ("cells", f"{store.cells:,} in {store.runs:,} runs, {store.bytes / 1e6:,.1f} MB"),
        ("genes", f"{store.genes:,} of {store.genes_of_input:,} ({store.gene_source})"),
        ("values", f"{_scale(store)}, {store.values_per_cell:,.0f} non-zero a cell"),
        ("perturbations", f"{store.perturbations:,} and the control {store.control!r}"),
        ("cells per condition", _spread(store.cells_per_condition)),
        ("fewest controls of a role", _fewest(store)),
        ("library size", _spread(store.library_size)),
        ("checksums", "verified" if store.checksums_verified else "not verified"),
        ("fingerprint", store.fingerprint[:16]),
    ):
        if value:
            facts.add_row(name, _text(value))
    contexts = Table("context")
    for column in (
        "cells",
        "controls",
        "input / target / truth",
        "perturbations",
        "batches",
        "batches without controls",
    ):
        contexts.add_column(column, justify="right")
    for context in store.by_context:
        contexts.add_row(
            _text(context.context),
            *(f"{n:,}" for n in (context.cells, context.controls)),
            "/".join(f"{n:,}" for n in context.control_parts),
            *(f"{n:,}" for n in (context.perturbations, context.batches, context.batches_without_controls)),
        )
    return Group(facts, contexts)


def _text(text: str) -> Text:
    """Return text that rich shows as it is, whatever brackets a label has."""
    return Text(printable(text))


def _fewest(store: Inspection) -> str:
    cells = {
        context.context: dict(zip(ControlRole, context.control_parts, strict=True)) for context in store.by_context
    }
    least, role, context = min((count, role, name) for name, roles in cells.items() for role, count in roles.items())
    return f"{least:,}, {role} of {context}"


def _scale(store: Inspection) -> str:
    return f"counts, to {store.target_sum:,.0f} and log1p when read" if store.kind == "counts" else "log1p as given"


def _spread(quantiles: tuple[float, ...]) -> str:
    if not quantiles:
        return ""
    least, _, median, _, most = quantiles
    return f"{least:,.0f} to {most:,.0f}, median {median:,.0f}"
