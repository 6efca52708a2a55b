"""Score the cells of a screen once, by perteval, cell-eval or cell-eval2, and say what it took."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from driver_protocol import cpu_seconds, memory, serve

from bionemo.perteval import evaluate_submission
from bionemo.perteval.inputs.alignment import align
from bionemo.perteval.inputs.divisions import divide
from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile
from bionemo.perteval.metrics.registry import METRICS
from bionemo.perteval.populations.catalogue import Turn
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.scoring import ContextScorer, score_arms
from bionemo.screens.simulation import CONTROL, draw_screen, log1p_of

SHARED = [metric for metric in METRICS.values() if metric.source]
"""The metrics that both engines have."""
CHALLENGE = ("vcc2026", "cell-eval2")
"""The engines that score the members of the Virtual Cell Challenge 2026, on counts."""
_DISTINCT = 50_000


def measure(engine: str, controls: Any, cells: int, genes: int, perturbations: int, threads: int) -> dict[str, Any]:
    """Draw a screen, score it, and return seconds, bytes and scores.

    A small screen is scored first, so that imports and compilation are not counted; only the start of cell-eval2's own
    process is.
    """
    _score(engine, controls, *_draw(600, 50, 3, counts=engine in CHALLENGE), threads=threads)
    screen, prediction = _draw(cells, genes, perturbations, counts=engine in CHALLENGE)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory is from now on
    before = memory()["peak_rss_bytes"]
    wall, cpu = time.perf_counter(), cpu_seconds()
    scores = _score(engine, controls, screen, prediction, threads)
    return {
        "engine": engine,
        "cells": cells,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": cpu_seconds() - cpu,
        "bytes_before": before,
        "peak_bytes": memory()["peak_rss_bytes"],
        "scores": {name: scores[name].astype(float).tolist() for name in scores},
    }


def _score(engine: str, controls: Any, screen: ad.AnnData, prediction: ad.AnnData, threads: int) -> pd.DataFrame:
    """Score a prediction against a screen, both log1p or both counts; return the metrics that both engines have."""
    if engine in CHALLENGE:
        found = evaluate_submission(prediction, screen, engine=engine, threads=threads, progress=False)  # pyright: ignore[reportArgumentType]
        return found.members.set_index("member")[["value", "zero", "one"]].T
    if engine == "cell-eval":
        return _plain_cell_eval(screen, prediction, threads)
    keys = Keys(perturbation_key="perturbation", context_key="context", control=CONTROL, target_sum=None, layer=None)
    predicted = CellFile(arm="prediction", cells=prediction, name="prediction")
    observed = CellFile(cells=screen, name="observed")
    built = align([predicted], observed, keys)
    divisions, _ = divide(built, [predicted], observed, controls=controls)
    if engine == "all arms":
        scored = score_arms(built, divisions, seed=0, threads=threads, progress=False)
        scores = scored.tables[divisions.modes[0]]["per_perturbation"]
        mine = pd.DataFrame(scores[scores["arm"] == "prediction"]).set_index("perturbation")
        return pd.DataFrame(mine[[metric.name for metric in SHARED]])
    with ThreadPoolExecutor(threads) as pool:
        scorer = ContextScorer(built, Estimates(built), "context_1", divisions, seed=0, pool=pool)
        (found,) = scorer.score(Turn(arm="prediction", repeat=0, roles=divisions.all))
    return pd.DataFrame(found.scores.set_index("perturbation")[[metric.name for metric in SHARED]])


def _plain_cell_eval(screen: ad.AnnData, prediction: ad.AnnData, threads: int) -> pd.DataFrame:
    from cell_eval import MetricsEvaluator

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
    named = scores.rename(columns={metric.source: metric.name for metric in SHARED})
    return pd.DataFrame(named[[metric.name for metric in SHARED]])


def _draw(cells: int, genes: int, perturbations: int, *, counts: bool = False) -> tuple[ad.AnnData, ad.AnnData]:
    """Return a screen and a prediction, log1p or counts: for each perturbation the cells of the next one.

    Counts are labelled as the challenge labels them, and their prediction has control cells, as a submission has.

    Beyond 50,000 cells they are drawn with replacement from a screen of that size.
    """
    distinct = min(cells, _DISTINCT)
    screen = draw_screen(cells=distinct, genes=genes, contexts=1, perturbations=perturbations, batches=1)
    if not counts:
        screen = log1p_of(screen)
    if cells > distinct:
        screen = screen[np.random.default_rng(0).integers(distinct, size=cells)].copy()
        screen.obs_names_make_unique()
    labels = screen.obs["perturbation"].to_numpy(str)
    names = [name for name in np.unique(labels) if name != CONTROL]
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    if counts:
        screen.obs["target"] = np.where(labels == CONTROL, "non-targeting", labels)
        prediction = screen[_rows_of_next(labels, following)].copy()
        prediction.obs["target"] = screen.obs["target"].to_numpy()
        prediction.obs_names = list(screen.obs_names)
        return screen, prediction
    prediction = screen[labels != CONTROL].copy()
    prediction.obs["perturbation"] = [following[name] for name in prediction.obs["perturbation"]]
    return screen, prediction


def _rows_of_next(labels: np.ndarray, following: dict[str, str]) -> np.ndarray:
    """Return for each cell a row of the perturbation that follows its own; control cells stay."""
    rows = np.arange(labels.size)
    for name, other in following.items():
        rows[labels == name] = np.resize(np.flatnonzero(labels == other), (labels == name).sum())
    return rows


if __name__ == "__main__":
    serve(measure=measure)
