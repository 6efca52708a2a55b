"""Time scoring beside cell-eval itself, and how time and memory grow with the number of cells.

Every measurement runs in a process of its own.
"""

import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bionemo.bench.harness.environments import ArmError
from bionemo.bench.harness.formats import OWN
from bionemo.bench.harness.machine import machine_facts
from bionemo.bench.harness.report import described
from bionemo.bench.harness.run import alternate
from bionemo.bench.harness.worker import Bench
from bionemo.screens.errors import InputError

SCHEMA = "bionemo-perteval scoring benchmark 1"
_DRIVER = Path(__file__).parent / "drivers/score_cells"
_TIMEOUT = 24 * 3600.0
_OURS = {"cell-eval": "perteval", "cell-eval2": "vcc2026"}
"""Package -> the engine of this project that scores the same."""


def run(
    cache: Path,
    *,
    cells: int,
    genes: int,
    perturbations: int,
    growth: list[int],
    controls: str,
    against: str,
    repeats: int,
    threads: int,
) -> dict[str, Any]:
    """Time perteval and another package on the same cells, alternating, then perteval on growing screens.

    Parameters
    ----------
    cache
        Directory of logs.
    cells, genes, perturbations
        Size of the screen that both score; the control cells are among the cells.
    growth
        Numbers of cells that perteval alone scores.
    controls
        Which control cells perteval alone scores with: independent, shared, both. The comparison has them shared.
    against
        ``cell-eval``, on the metrics that both have, or ``cell-eval2``, on the members of the Virtual Cell Challenge
        2026 with their two points.
    repeats
        Repetitions of the comparison.
    threads
        Threads of perteval and of cell-eval2, worker processes of cell-eval.

    Returns
    -------
    dict
        Times in seconds, peak memory in bytes, largest differences of the scores, versions and machine.

    Raises
    ------
    InputError
        The other package is not known.
    ArmError
        perteval alone cannot score.
    """
    if against not in _OURS:
        raise InputError(f"--against is {against!r}, but it can be {' or '.join(_OURS)}.")
    ours = _OURS[against]
    began, bench = time.monotonic(), Bench(cache)
    size = {"genes": genes, "perturbations": perturbations, "threads": threads}

    def measure(engine: str, controls: str = "shared", cells: int = cells) -> dict[str, Any]:
        with bench.start(_DRIVER, OWN, threads=threads) as worker:
            return worker.ask("measure", timeout=_TIMEOUT, engine=engine, controls=controls, cells=cells, **size)

    runs, failed = alternate((ours, against), repeats, measure)
    if failed:
        raise ArmError(next(f"{engine}: {why}" for engine, why in failed.items()))
    wall, cpu = (
        {engine: median(one[clock] for one in found) for engine, found in runs.items() if found}
        for clock in ("seconds", "cpu_seconds")
    )
    grown = [measure("all arms", controls, count) for count in growth]
    settings = {"cells": cells, **size, "repeats": repeats, "controls": controls, "against": against}
    compared = [found[0]["scores"] for found in runs.values() if found]
    return described(SCHEMA, began, machine_facts(), settings) | {
        "median_seconds": wall,
        "median_cpu_seconds": cpu,
        "times_faster": wall[against] / wall[ours] if wall else None,
        "times_less_cpu": cpu[against] / cpu[ours] if cpu else None,
        "largest_difference": _largest_difference(*compared) if compared else {},
        "runs": {engine: [_without_scores(one) for one in found] for engine, found in runs.items()},
        "growth": [_without_scores(one) for one in grown],
        "versions": {name: version(name) for name in ("bionemo-perteval", "cell-eval", "pdex", "numpy", "numba")},
    }


def _largest_difference(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> dict[str, float]:
    return {name: float(np.nanmax(np.abs(np.subtract(ours[name], theirs[name])))) for name in ours}


def _without_scores(measured: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in measured.items() if name != "scores"}
