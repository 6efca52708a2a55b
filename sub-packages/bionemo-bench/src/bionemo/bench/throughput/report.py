"""Write a throughput benchmark's result as files: JSON, Markdown tables, a plot, made from the JSON alone."""

from collections.abc import Sequence
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
from bionemo.bench.throughput.arms import INFERENCE, TRAINING
from bionemo.bench.throughput.records import LOOP_RATE


def write_report(result: dict[str, Any], out: Path) -> dict[str, Path]:
    """Write ``throughput.json``, ``throughput.md`` and ``throughput.svg``, and return the files by ending."""
    return write_files(result, out, "throughput", markdown, plot)


def markdown(result: dict[str, Any]) -> str:
    """Return the tables: conditions, what was asked, training, inference, formats, and what was not run."""
    parts = [_conditions(result), _headline(result), _training(result), _inference(result)]
    parts += [formats_table(result, result["settings"]["screen"]["cells"]), listed(_beside(result))]
    return "\n\n".join(part for part in parts if part) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw cells a second of every arm, on an axis of its own for training and for inference."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = [
        (title, [arm for arm in result["arms"] if arm["task"] == task and "runs" in arm], rate)
        for task, title, rate in (
            (TRAINING, "training: distinct perturbed cells a second", "cells_per_second"),
            (INFERENCE, "inference: predicted cells a second, files apart", LOOP_RATE),
        )
    ]
    panels = [panel for panel in panels if panel[1]] or [("nothing was measured", [], "")]
    heights = [max(1, len(arms)) for _, arms, _ in panels]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(8, 1.6 + 0.36 * sum(heights) + 0.5 * len(panels)),
        layout="constrained",
        squeeze=False,
        height_ratios=heights,
    )
    for (title, arms, rate), axis in zip(panels, axes[:, 0], strict=True):
        for place, arm in enumerate(reversed(arms)):
            found = arm[rate]
            dark = arm["system"] == "scale"
            color = "0.35" if dark else "1.0" if arm["as_is"] else "0.75"
            bar(axis, place, found, color=color, hatch="///" if arm["as_is"] else None)
        axis.set_yticks(range(len(arms)), [arm["label"] for arm in reversed(arms)])
        axis.set_title(title, fontsize="medium")
        grid(axis)
    figure.supxlabel(
        f"median; whiskers: least to greatest ({result['settings']['size']}, {result['settings']['device']})",
        fontsize="small",
    )
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _conditions(result: dict[str, Any]) -> str:
    settings, machine = result["settings"], result["machine"]
    models = settings["models"]
    where = f"{settings['gpus']} x {machine['gpus'][0]}" if machine["gpus"] else "CPU"
    return (
        f"Size `{settings['size']}`: width {models['hidden']}, {models['layers']} layers of {models['heads']} heads, "
        f"feed-forward {models['ffn']}, {models['sets_per_batch']} sets of {models['set_size']} cells a batch. "
        f"{screen_line(settings['screen'])}. {settings['repeats']} alternating "
        f"repetitions of {settings['steps']} steps; {where}, {settings['threads']} computing thread"
        f"{'s' if settings['threads'] > 1 else ''} a process. "
        f"{machine_line(machine)}. Commit {machine['git_commit']}, {result['started'][:10]}, "
        f"{result['took_seconds'] / 60:.0f} minutes in all."
    )


def _headline(result: dict[str, Any]) -> str:
    if not result["headline"]:
        return ""
    rows = []
    for line in result["headline"]:
        found, share = line["found"], "at_most" in line
        wanted = f"under {line['at_most']:.0%}" if share else f"at least {line['at_least']:g}"
        rows.append(
            (line["what"], wanted, spread(found, ".1%") if share else _times(found), "met" if line["met"] else "missed")
        )
    return table(("what", "wanted", "found", ""), rows, left=1)


def _training(result: dict[str, Any]) -> str:
    head = (
        *("training", "cells/s", "cells/CPU-s", "steps/s", "SCALE x, cells/s", "SCALE x, CPU", "SCALE x, steps/s"),
        *("waits", "step p50 / p90 / p99, s", "peak RSS, MB", "own memory, MB"),
    )
    arms = _measured(result, TRAINING)
    on_gpu = bool(result["machine"]["gpus"])
    rows = []
    for arm in arms:
        times, runs = result["ratios"].get(arm["name"], {}), arm["runs"]
        steps = _middle(runs)["step_percentiles"]
        row = (
            arm["label"],
            spread(arm["cells_per_second"]),
            spread(arm["cells_per_cpu_second"]),
            f"{arm['iterations_per_second']['median']:.3g}",
            *(
                _times(times.get(rate))
                for rate in ("cells_per_second", "cells_per_cpu_second", "iterations_per_second")
            ),
            f"{arm['data_wait']['median']:.1%}",
            f"{steps['p50']:.3g} / {steps['p90']:.3g} / {steps['p99']:.3g}",
            *memory(runs),
        )
        device = max(run["device_bytes"] for run in runs) / 1e6
        joule = arm.get("cells_per_joule")
        rows.append((*row, f"{device:,.0f}", f"{joule['median']:,.1f}" if joule else "") if on_gpu else row)
    return table((*head, "GPU memory, MB", "cells/J") if on_gpu else head, rows, left=1)


def _inference(result: dict[str, Any]) -> str:
    head = (
        *("inference", "whole command, cells/s", "files apart, cells/s", "forward alone, cells/s", "cells/CPU-s"),
        *("SCALE x, whole", "SCALE x, files apart", "waits", "reads, s", "writes, s", "peak RSS, MB", "own memory, MB"),
    )
    rows = []
    for arm in _measured(result, INFERENCE):
        times, runs = result["ratios"].get(arm["name"], {}), arm["runs"]
        last = _middle(runs)
        rows.append(
            (
                arm["label"],
                *(spread(arm[rate]) for rate in ("cells_per_second", LOOP_RATE, "forward_cells_per_second")),
                spread(arm["cells_per_cpu_second"]),
                *(_times(times.get(rate)) for rate in ("cells_per_second", LOOP_RATE)),
                f"{arm['data_wait']['median']:.1%}",
                f"{last['reading_seconds']:.2f}" if last["reading_seconds"] else "",
                f"{last['writing_seconds']:.2f}",
                *memory(runs),
            )
        )
    return table(head, rows, left=1)


def _beside(result: dict[str, Any]) -> list[str]:
    """Return the lines about weights, files in memory, batches made ahead, and arms that were not run."""
    lines = []
    weights = {arm["label"]: arm["parameters"] for arm in result["arms"] if "parameters" in arm}
    if weights:
        lines.append("weights that are trained: " + "; ".join(f"{label} {n:,}" for label, n in weights.items()))
    counted = {arm["label"]: arm["step_flops"] for arm in result["arms"] if "step_flops" in arm}
    if counted:
        told = "; ".join(f"{label} {n / 1e9:.1f}" for label, n in counted.items())
        lines.append(f"matrix products of a step, forward and backward, in 10^9 operations: {told}")
    there = [run["resident_before"] for arm in _measured(result, TRAINING) for run in arm["runs"]]
    if there:
        lines.append(f"files in memory before a measurement: at least {100 * min(there):.0f}% of an arm's")
    for arm in _measured(result, TRAINING):
        ahead = [run["batches_ready"] for run in arm["runs"]]
        if any(map(any, ahead)):
            told = ", ".join(f"{begin} to {end}" for begin, end in ahead)
            lines.append(f"{arm['label']}: finished batches in its workers' queue over each measurement: {told}")
    lines += [f"{arm['label']} was not run: {arm['not_run']}" for arm in result["arms"] if arm["not_run"]]
    return lines


def _measured(result: dict[str, Any], task: str) -> list[dict[str, Any]]:
    return [arm for arm in result["arms"] if arm["task"] == task and "runs" in arm]


def _middle(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return sorted(runs, key=lambda run: run["cells_per_second"])[len(runs) // 2]


def _times(found: dict[str, float] | None) -> str:
    return spread(found, ".2f") if found else ""
