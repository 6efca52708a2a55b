"""Make the tables that the commands print."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bionemo.cellsets import CellStore, Inspection
from bionemo.screens.controls import ControlRole
from bionemo.screens.printable import printable


def show(seen: Inspection) -> None:
    """Print what a store holds: its sizes, then a row for each context."""
    store, selection = seen.store, seen.store.manifest["gene_selection"]
    size = sum(file["bytes"] for file in store.manifest["files"].values())
    facts = Table(title=_text(f"store {store.path}"), title_justify="left", show_header=False, box=None)
    facts.add_column(style="bold")
    facts.add_column()
    for name, value in (
        ("cells", f"{store.n_cells:,} in {len(store.runs):,} runs, {size / 1e6:,.1f} MB"),
        ("genes", f"{store.n_genes:,} of {selection['of']:,} ({selection['source']})"),
        ("values", f"{_scale(store)}, {store.n_values / store.n_cells:,.0f} non-zero a cell"),
        ("perturbations", f"{len(store.perturbations) - 1:,} and the control {store.control!r}"),
        ("cells per condition", _spread(seen.cells_per_condition)),
        ("fewest controls of a role", _fewest(seen)),
        ("library size", _spread(seen.library_size)),
        ("checksums", "verified" if seen.checksums_verified else "not verified"),
        ("fingerprint", store.fingerprint[:16]),
    ):
        if value:
            facts.add_row(name, _text(value))
    contexts = Table("context")
    counts = ("cells", "controls", "input / target / truth", "perturbations", "batches", "batches without controls")
    for column in counts:
        contexts.add_column(column, justify="right")
    for context in seen.by_context:
        contexts.add_row(
            _text(context.context),
            *(f"{n:,}" for n in (context.cells, context.controls)),
            "/".join(f"{n:,}" for n in context.control_parts),
            *(f"{n:,}" for n in (context.perturbations, context.batches, context.batches_without_controls)),
        )
    Console().print(facts, contexts)


def _text(text: str) -> Text:
    """Return text that rich shows as it is, whatever brackets a label has."""
    return Text(printable(text))


def _fewest(seen: Inspection) -> str:
    parts = ((context, zip(context.control_parts, ControlRole, strict=True)) for context in seen.by_context)
    least, role, name = min((count, role, context.context) for context, roles in parts for count, role in roles)
    return f"{least:,}, {role} of {name}"


def _scale(store: CellStore) -> str:
    return f"counts, to {store.target_sum:,.0f} and log1p when read" if store.kind == "counts" else "log1p as given"


def _spread(quantiles: tuple[float, ...]) -> str:
    if not quantiles:
        return ""
    least, _, median, _, most = quantiles
    return f"{least:,.0f} to {most:,.0f}, median {median:,.0f}"
