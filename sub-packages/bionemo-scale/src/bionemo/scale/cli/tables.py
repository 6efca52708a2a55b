"""Tables the commands print."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from bionemo.cellsets import Inspection


def show(table: RenderableType) -> None:
    """Print to standard output."""
    Console().print(table)


def inspection_table(store: Inspection) -> RenderableType:
    """What a store holds: its sizes, then a row for each context."""
    facts = Table(title=f"store {store.path}", title_justify="left", show_header=False, box=None)
    facts.add_column(style="bold")
    facts.add_column()
    for name, value in (
        ("cells", f"{store.cells:,} in {store.runs:,} runs, {store.bytes / 1e6:,.1f} MB"),
        ("genes", f"{store.genes:,} of {store.genes_of_input:,} ({store.gene_source})"),
        ("values", f"{_scale(store)}, {store.values_per_cell:,.0f} non-zero a cell"),
        ("perturbations", f"{store.perturbations:,} and the control {store.control!r}"),
        ("cells per condition", _spread(store.cells_per_condition)),
        ("library size", _spread(store.library_size)),
        ("checksums", "verified" if store.checksums_verified else "not verified"),
        ("fingerprint", store.fingerprint[:16]),
    ):
        if value:
            facts.add_row(name, value)
    contexts = Table("context")
    for column in ("cells", "controls", "perturbations", "batches", "batches without controls"):
        contexts.add_column(column, justify="right")
    for context in store.by_context:
        contexts.add_row(
            context.context,
            *(f"{n:,}" for n in (context.cells, context.controls, context.perturbations, context.batches)),
            f"{context.batches_without_controls:,}",
        )
    return Group(facts, contexts)


def rates_table(result: dict[str, Any], ratios: dict[str, dict[str, float]]) -> RenderableType:
    """A row for each loop of a loader benchmark: its median rates, and how many times them ours has."""
    table = Table("loop", "reads")
    for column in ("cells/s", "cells/CPU-s", "ours x (wall)", "ours x (CPU)"):
        table.add_column(column, justify="right")
    for arm in result["arms"]:
        if "warm" not in arm:
            table.add_row(arm["label"], f"not run: {arm['not_run']}")
            continue
        rates = (f"{arm['warm'][name]['median']:,.0f}" for name in ("cells_per_second", "cells_per_cpu_second"))
        times = (f"{times:.3g}" for times in ratios.get(arm["name"], {}).values())
        table.add_row(arm["label"], arm["reads"], *rates, *times)
    return table


def headline_table(result: dict[str, Any]) -> RenderableType:
    """A row for each arm of a throughput benchmark, then one for each ratio it was run for."""
    rates = Table("arm")
    for column in ("cells/s", "cells/CPU-s", "waits for data"):
        rates.add_column(column, justify="right")
    for arm in result["arms"]:
        if "runs" not in arm:
            rates.add_row(arm["label"], f"not run: {arm['not_run']}")
            continue
        medians = (f"{arm[name]['median']:,.0f}" for name in ("cells_per_second", "cells_per_cpu_second"))
        rates.add_row(arm["label"], *medians, f"{arm['data_wait']['median']:.1%}")
    asked = Table("asked", "wanted", "found", "")
    for line in result["headline"]:
        share = "at_most" in line
        wanted = f"under {line['at_most']:.0%}" if share else f"at least {line['at_least']:g}"
        found = f"{line['found']['median']:.1%}" if share else f"{line['found']['median']:.2f}"
        asked.add_row(line["what"], wanted, found, "met" if line["met"] else "missed")
    return Group(rates, asked) if result["headline"] else rates


def _scale(store: Inspection) -> str:
    return f"counts, to {store.target_sum:,.0f} and log1p when read" if store.kind == "counts" else "log1p as given"


def _spread(quantiles: tuple[float, ...]) -> str:
    if not quantiles:
        return ""
    least, _, median, _, most = quantiles
    return f"{least:,.0f} to {most:,.0f}, median {median:,.0f}"
