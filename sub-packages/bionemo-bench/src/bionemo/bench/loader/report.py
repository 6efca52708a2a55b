"""Write a loader benchmark's result as files: JSON, a Markdown table, a plot, made from the JSON alone."""

from pathlib import Path
from typing import Any

from bionemo.bench.harness.report import (
    bar,
    formats_table,
    grid,
    listed,
    machine_line,
    memory,
    screen_line,
    spread,
    table,
    write_files,
)
from bionemo.bench.loader.arms import CELLS, PAIRS, SETS

_LIKE = {PAIRS: ("dense",), SETS: ("dense-sets", "dense"), CELLS: ("dense-sets", "dense")}
"""The arm of ours that one is compared with, by what it reads; the second where the first was not measured."""


def write_report(result: dict[str, Any], out: Path) -> dict[str, Path]:
    """Write ``loader.json``, ``loader.md`` and ``loader.svg``, and return the files by ending."""
    return write_files(result, out, "loader", markdown, plot)


def ratios(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return how many times an arm's median rate ours has, by arm: `wall` and `cpu`.

    Ours is the dense loop that reads what the arm reads.
    """
    warm = {arm["name"]: arm["warm"] for arm in result["arms"] if "warm" in arm}
    found = {}
    for arm in result["arms"]:
        own = next((warm[name] for name in _LIKE[arm["reads"]] if name in warm), None)
        if own is not None and arm["name"] in warm:
            found[arm["name"]] = {
                kind: own[name]["median"] / warm[arm["name"]][name]["median"]
                for kind, name in (("wall", "cells_per_second"), ("cpu", "cells_per_cpu_second"))
            }
    return found


def markdown(result: dict[str, Any]) -> str:
    """Return the tables: arms, formats, and what was measured beside them."""
    formats = formats_table(result, result["settings"]["size"]["cells"])
    return "\n\n".join([_conditions(result), _arm_table(result), formats, listed(_beside(result))]) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw distinct cells a second of each arm on a logarithmic axis: bars by CPU second, marks by wall time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    arms = [arm for arm in result["arms"] if "warm" in arm]
    arms.sort(key=lambda arm: arm["warm"]["cells_per_cpu_second"]["median"])
    figure, axes = plt.subplots(figsize=(8, 1.3 + 0.34 * len(arms)), layout="constrained")
    for place, arm in enumerate(arms):
        rate, wall = (arm["warm"][name] for name in ("cells_per_cpu_second", "cells_per_second"))
        ours = arm["format"] == "store"
        bar(
            axes,
            place,
            rate,
            color="0.35" if ours else "0.85",
            hatch=None if ours else "///",
            label="bionemo-cellsets, a CPU second" if ours else "others, a CPU second",
        )
        axes.plot(wall["median"], place, "o", color="white", markeredgecolor="black", markersize=6, label="wall time")
    axes.set_yticks(range(len(arms)), [f"{arm['label']} ({arm['reads']})" for arm in arms])
    axes.set_xscale("log")
    figure.supxlabel("distinct target cells a second, warm (median; whiskers: least to greatest)", fontsize="medium")
    grid(axes)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside upper center", ncols=3, fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _conditions(result: dict[str, Any]) -> str:
    settings, machine = result["settings"], result["machine"]
    set_rate, copy_rate = (
        f"{rate['1'] / 1e9:.1f} GB/s with one thread, {rate['2'] / 1e9:.1f} with two"
        for rate in (machine["bytes_per_second"][name] for name in ("memset", "memcpy"))
    )
    return (
        f"{screen_line(settings['size'])}; {settings['sets_per_batch']} sets of "
        f"{settings['set_size']} cells a batch; {settings['repeats']} alternating repeats of "
        f"{settings['seconds']:g} s. "
        f"{machine_line(machine)}; memset {set_rate}; memcpy {copy_rate}. "
        f"Commit {machine['git_commit']}, {result['started'][:10]}."
    )


def _arm_table(result: dict[str, Any]) -> str:
    head = (
        *("loop", "reads", "cells/s", "cells/CPU-s", "rows/CPU-s", "ours x (wall)", "ours x (CPU)", "of memset"),
        *("cold, cells/s", "first batch, s", "peak RSS, MB", "own memory, MB"),
    )
    rows, missing, times = [], [], ratios(result)
    row_bytes = 4 * result["settings"]["size"]["genes"]
    memset = result["machine"]["bytes_per_second"]["memset"]
    for arm in result["arms"]:
        if "warm" not in arm:
            missing.append(f"{arm['label']} was not run: {arm['not_run']}")
            continue
        warm = arm["warm"]
        last = warm["runs"][-1]
        # Wall time on both sides, and as many writers.
        of_memset = warm["rows_per_second"]["median"] * row_bytes / memset[str(arm["ranks"])]
        dense = not arm["options"].get("loader", {}).keys() & {"staged", "dtype"}
        rows.append(
            (
                arm["label"],
                arm["reads"],
                spread(warm["cells_per_second"]),
                spread(warm["cells_per_cpu_second"]),
                f"{warm['rows_per_cpu_second']['median']:,.0f}",
                *(f"{times[arm['name']][kind]:.3g}" if arm["name"] in times else "" for kind in ("wall", "cpu")),
                f"{100 * of_memset:.0f}%" if dense else "",
                f"{arm['cold']['cells_per_second']['median']:,.0f}" if "cold" in arm else "",
                f"{last['first_batch_seconds']:.2f}",
                *memory(warm["runs"]),
            )
        )
    return table(head, rows, left=2) + ("\n\n" + listed(missing) if missing else "")


def _beside(result: dict[str, Any]) -> list[str]:
    """Return the lines about preparing, ranks and the page cache."""
    lines, arms = [], {arm["name"]: arm for arm in result["arms"]}
    cells, memset = result["settings"]["size"]["cells"], result["machine"]["bytes_per_second"]["memset"]
    if made := result["formats"].get("store"):
        lines.append(
            f"prepare: {cells / made['seconds']:,.0f} cells/s, {made['cpu_seconds']:.1f} CPU seconds, "
            f"peak RSS {made['peak_rss_bytes'] / 1e6:,.0f} MB"
        )
    for one, two in (("dense", "ranks"), ("staged", "staged-ranks")):
        if "warm" in arms.get(one, {}) and "warm" in arms.get(two, {}):
            rates = [arms[name]["warm"]["cells_per_second"]["median"] for name in (one, two)]
            lines.append(
                f"two ranks over one, {one}: {rates[1] / rates[0]:.2f} (memset with two threads over one: "
                f"{memset['2'] / memset['1']:.2f})"
            )
    kept, there = ([run["resident_before"] for run in _runs(result, phase)] for phase in ("cold", "warm"))
    if kept and max(kept) > 0.01:
        lines.append(
            f"cold: the kernel kept up to {100 * max(kept):.0f}% of an arm's pages when asked to drop them, so cold "
            "rates are too high"
        )
    if there and min(there) < 0.99:
        lines.append(
            f"warm: as little as {100 * min(there):.0f}% of an arm's files was in memory before a measurement; this "
            "machine has too little memory for all of them"
        )
    return lines


def _runs(result: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    return [run for arm in result["arms"] for run in arm.get(phase, {"runs": []})["runs"]]
