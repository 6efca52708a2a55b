"""Compute rates of what was measured, and ratios between arms, from the records alone."""

from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from bionemo.bench.harness.run import summary
from bionemo.bench.throughput.arms import INFERENCE, SCALE, TRAINING

Record = dict[str, Any]
LOOP_RATE = "loop_cells_per_second"
_RATES = ("cells_per_second", "cells_per_cpu_second", "iterations_per_second", LOOP_RATE, "forward_cells_per_second")
_SUMMARISED = (*_RATES, "data_wait", "cells_per_joule")


def training_rates(taken: Record) -> Record:
    """Return the rates of one window of training.

    `cells_per_second` are distinct perturbed cells over wall time, `data_wait` is the share of it spent waiting for
    batches, `step_percentiles` are of the steps' seconds.
    """
    wall, cells = taken["wall_seconds"], taken["distinct_cells"]
    return {
        "cells_per_second": cells / wall,
        "cells_per_cpu_second": cells / taken["cpu_seconds"],
        "iterations_per_second": taken["steps"] / wall,
        "data_wait": taken["wait_seconds"] / wall,
        "step_percentiles": percentiles(taken["step_seconds"]),
        "cells_per_joule": _per(cells, taken.get("joules")),
    }


def inference_rates(taken: Record) -> Record:
    """Return the rates of one prediction: of the whole command, of its loop without files, of its forward passes."""
    cells = taken["cells"]
    return {
        "cells_per_second": cells / taken["wall_seconds"],
        "cells_per_cpu_second": cells / taken["cpu_seconds"],
        "iterations_per_second": taken["forward_calls"] / taken["wall_seconds"],
        LOOP_RATE: cells / taken["loop_seconds"],
        "forward_cells_per_second": cells / taken["forward_seconds"],
        "data_wait": taken["wait_seconds"] / taken["wall_seconds"],
        "cells_per_joule": _per(cells, taken.get("joules")),
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the 50th, 90th and 99th percentile."""
    if len(seconds) == 1:
        return dict.fromkeys(("p50", "p90", "p99"), seconds[0])
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98]}


def summaries(taken: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Return median, least and greatest of every rate over an arm's repetitions."""
    there = [name for name in _SUMMARISED if all(run.get(name) is not None for run in taken)]
    return {name: summary([run[name] for run in taken]) for name in there}


def ratio(ours: Record, theirs: Record, rate: str) -> dict[str, float]:
    """Return how many times their rate ours has, repetition by repetition: median, least and greatest."""
    pairs = zip(ours["runs"], theirs["runs"], strict=True)
    return summary([mine[rate] / other[rate] for mine, other in pairs])


def ratios(arms: Sequence[Record]) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by arm and rate, how many times its rate SCALE has at the arm's own precision.

    In inference SCALE is the arm that takes one set at a time, as STATE's commands do.
    """
    measured = [arm for arm in arms if "runs" in arm]
    found = {}
    for arm in measured:
        ours = _ours(measured, arm)
        if ours is not None and ours is not arm:
            rates = [rate for rate in _RATES if rate in arm and rate in ours]
            found[arm["name"]] = {rate: ratio(ours, arm, rate) for rate in rates}
    return found


def headline(arms: Sequence[Record]) -> list[dict[str, Any]]:
    """Return what the benchmark is asked for: what is compared, the ratio found, what was wanted, whether it is met.

    Training compares the fastest SCALE with STATE as shipped and with the fastest STATE that has nothing of ours.
    """
    measured = {arm["name"]: arm for arm in arms if "runs" in arm}
    training = [arm for arm in measured.values() if arm["task"] == TRAINING]
    ours = max((arm for arm in training if arm["system"] == SCALE), key=_speed, default=None)
    tuned = max((arm for arm in training if arm["as_is"]), key=_speed, default=None)
    lines = []
    if ours is not None:
        for what, theirs, wanted in (("as shipped", measured.get("state"), 3.0), ("at its fastest", tuned, 1.5)):
            if theirs is not None:
                found = ratio(ours, theirs, "cells_per_second")
                lines.append(_line(f"training, {ours['label']} over STATE {what} ({theirs['name']})", found, wanted))
        wait = ours["data_wait"]
        lines.append(
            {"what": f"training, share of {ours['label']}'s time that waits for data", "found": wait, "at_most": 0.02}
            | {"met": wait["median"] < 0.02}
        )
    one = measured.get("predict-1")
    if one is not None:
        for name, rate, what, wanted in (
            ("tx-predict", "cells_per_second", "the whole command", 3.0),
            ("tx-infer", LOOP_RATE, "without files", 1.29),
        ):
            if name in measured:
                found = ratio(one, measured[name], rate)
                lines.append(_line(f"inference, {one['label']} over {measured[name]['label']}, {what}", found, wanted))
    return lines


def _line(what: str, found: dict[str, float], wanted: float) -> dict[str, Any]:
    return {"what": what, "found": found, "at_least": wanted, "met": found["median"] >= wanted}


def _ours(measured: Sequence[Record], arm: Record) -> Record | None:
    own = [other for other in measured if other["task"] == arm["task"] and other["system"] == SCALE]
    if arm["task"] == INFERENCE:
        return next((other for other in own if other["name"] == "predict-1"), None)
    return next((other for other in own if other["precision"] == arm["precision"]), None)


def _speed(arm: Record) -> float:
    return arm["cells_per_second"]["median"]


def _per(cells: int, joules: float | None) -> float | None:
    return cells / joules if joules else None
