"""How long scoring takes beside cell-eval itself, and how time and memory grow with the number of cells.

Every measurement runs in a process of its own, which draws its screen, scores a small one first so that imports and
compilation are not counted, and prints one line of JSON.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from bionemo.perteval.metrics.registry import METRICS

_SHARED = [metric for metric in METRICS.values() if metric.source]


def run(
    *, cells: int, genes: int, perturbations: int, growth: list[int], controls: str, repeats: int, threads: int
) -> dict[str, Any]:
    """Time perteval and cell-eval on the same cells, alternating, then perteval on growing screens.

    Parameters
    ----------
    cells, genes, perturbations
        Size of the screen that both score; the control cells are among the cells.
    growth
        Numbers of cells that perteval alone scores.
    controls
        Which control cells perteval alone scores with: independent, shared, both. The comparison has them shared.
    repeats
        Of the comparison.
    threads
        Threads of perteval and worker processes of cell-eval.

    Returns
    -------
    dict
        Times in seconds, peak memory in bytes, largest differences of the scores, versions and machine.
    """
    size = {"genes": genes, "perturbations": perturbations, "threads": threads}
    runs: dict[str, list[dict[str, Any]]] = {"perteval": [], "cell-eval": []}
    for _ in range(repeats):
        for engine, found in runs.items():
            found.append(_measure(engine, "shared", cells=cells, **size))
    comparison: dict[str, Any] = {"median_seconds": {}, "times_faster": None, "largest_difference": {}}
    if repeats:
        ours, theirs = (pd.DataFrame(found[0]["scores"]) for found in runs.values())
        medians = {engine: float(np.median([one["seconds"] for one in found])) for engine, found in runs.items()}
        comparison = {
            "median_seconds": medians,
            "times_faster": medians["cell-eval"] / medians["perteval"],
            "largest_difference": {name: float((ours[name] - theirs[name]).abs().max()) for name in ours},
        }
    return {
        "cells": cells,
        **size,
        "repeats": repeats,
        **comparison,
        "runs": {engine: [_without_scores(one) for one in found] for engine, found in runs.items()},
        "controls": controls,
        "growth": [_without_scores(_measure("all arms", controls, cells=count, **size)) for count in growth],
        "versions": {name: version(name) for name in ("bionemo-perteval", "cell-eval", "pdex", "numpy", "numba")},
        "machine": {"cores": len(os.sched_getaffinity(0)), "processor": _processor(), "system": platform.platform()},
    }


def _without_scores(measured: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in measured.items() if name != "scores"}


def _measure(engine: str, controls: str, **size: int) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    arguments = [f"--{name}={value}" for name, value in size.items()]
    done = subprocess.run(
        [sys.executable, "-m", "bionemo.bench.scoring.benchmark", engine, controls, *arguments],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{engine} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _score(engine: str, controls: Any, screen: ad.AnnData, prediction: ad.AnnData, threads: int) -> pd.DataFrame:
    """Score a prediction, log1p, against a screen, log1p; return the metrics that both engines have."""
    if engine == "cell-eval":
        return _plain_cell_eval(screen, prediction, threads)
    from concurrent.futures import ThreadPoolExecutor

    from bionemo.perteval.inputs.alignment import align
    from bionemo.perteval.inputs.divisions import divide
    from bionemo.perteval.inputs.keys import Keys
    from bionemo.perteval.inputs.reading import CellFile
    from bionemo.perteval.populations.catalogue import Turn
    from bionemo.perteval.populations.estimates import Estimates
    from bionemo.perteval.scoring import ContextScorer, score_arms
    from bionemo.screens.simulation import CONTROL

    keys = Keys(perturbation_key="perturbation", context_key="context", control=CONTROL, target_sum=None, layer=None)
    predicted = CellFile(arm="prediction", cells=prediction, name="prediction")
    observed = CellFile(cells=screen, name="observed")
    built = align([predicted], observed, keys)
    divisions, _ = divide(built, [predicted], observed, controls=controls)
    if engine == "all arms":
        scored = score_arms(built, divisions, seed=0, threads=threads, progress=False)
        scores = scored.tables[divisions.modes[0]].per_perturbation
        mine = pd.DataFrame(scores[scores["arm"] == "prediction"]).set_index("perturbation")
        return pd.DataFrame(mine[[metric.name for metric in _SHARED]])
    with ThreadPoolExecutor(threads) as pool:
        scorer = ContextScorer(built, Estimates(built), "context_1", divisions, seed=0, pool=pool)
        (found,) = scorer.score(Turn(arm="prediction", repeat=0, roles=divisions.all))
    return pd.DataFrame(found.scores.set_index("perturbation")[[metric.name for metric in _SHARED]])


def _plain_cell_eval(screen: ad.AnnData, prediction: ad.AnnData, threads: int) -> pd.DataFrame:
    from cell_eval import MetricsEvaluator

    from bionemo.screens.simulation import CONTROL

    controls = screen[(screen.obs["perturbation"] == CONTROL).to_numpy()]
    with tempfile.TemporaryDirectory() as scratch:
        evaluator = MetricsEvaluator(
            ad.concat([controls, prediction], index_unique="-"),
            screen,
            control_pert=CONTROL,
            pert_col="perturbation",
            num_threads=threads,
            outdir=scratch,
        )
        skip = ["pearson_edistance", "clustering_agreement"]
        results, _ = evaluator.compute(skip_metrics=skip, write_csv=False, break_on_error=True)
    scores = pd.DataFrame(results.to_dict(as_series=False)).set_index("perturbation").sort_index()
    named = scores.rename(columns={metric.source: metric.name for metric in _SHARED})
    return pd.DataFrame(named[[metric.name for metric in _SHARED]])


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _main() -> None:
    """Measure once and print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("controls")
    for name in ("cells", "genes", "perturbations", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    size = parser.parse_args()

    _score(size.engine, size.controls, *_draw(600, 50, 3), threads=size.threads)
    screen, prediction = _draw(size.cells, size.genes, size.perturbations)
    before = _peak(reset=True)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    scores = _score(size.engine, size.controls, screen, prediction, size.threads)
    measured = {
        "engine": size.engine,
        "cells": size.cells,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": _cpu_seconds() - cpu,
        "bytes_before": before,
        "peak_bytes": _peak(),
        "scores": {name: scores[name].astype(float).tolist() for name in scores},
    }
    sys.stdout.write(json.dumps(measured) + "\n")


def _draw(cells: int, genes: int, perturbations: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Return a screen and a prediction, log1p: for each perturbation the cells of the next one.

    Beyond 50,000 cells they are drawn with replacement from a screen of that size.
    """
    from bionemo.screens.simulation import CONTROL, draw_screen, log1p_of

    distinct = min(cells, 50_000)
    screen = log1p_of(draw_screen(cells=distinct, genes=genes, contexts=1, perturbations=perturbations, batches=1))
    if cells > distinct:
        screen = screen[np.random.default_rng(0).integers(distinct, size=cells)].copy()
        screen.obs_names_make_unique()
    labels = screen.obs["perturbation"].to_numpy(str)
    names = [name for name in np.unique(labels) if name != CONTROL]
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    prediction = screen[labels != CONTROL].copy()
    prediction.obs["perturbation"] = [following[name] for name in prediction.obs["perturbation"]]
    return screen, prediction


def _peak(*, reset: bool = False) -> int:
    """Return the largest resident memory since the last reset, in bytes; on a reset the present one; 0 if unknown."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _cpu_seconds() -> float:
    """Return the processor time of this process and of the children that ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


if __name__ == "__main__":
    _main()
