"""Tables that the commands print."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table


def show(table: RenderableType) -> None:
    """Print to standard output."""
    Console().print(table)


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
