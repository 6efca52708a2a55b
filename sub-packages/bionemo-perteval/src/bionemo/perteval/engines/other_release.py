"""Score with the current release of cell-eval beside ours, in an environment of its own.

It scores the same arms from the same cells, but tests them itself: it corrects for multiple testing within each
perturbation, not over all, and ranks genes by the absolute log fold change of pseudobulks with a small constant added.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.perteval.engines.environment import Environment
from bionemo.perteval.inputs.divisions import Divisions
from bionemo.perteval.inputs.screen import Population, Screen, cell_count
from bionemo.perteval.metrics.registry import METRICS
from bionemo.perteval.metrics.scores import over_repeats
from bionemo.perteval.populations.catalogue import draw, list_arms, turns
from bionemo.perteval.populations.ceiling import INTERPOLATED, SPLIT_HALVES, split_halves
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.populations.views import View
from bionemo.perteval.progress import bar

CELL_EVAL = Environment(package="cell-eval", release="0.8.2", script="cell_eval_driver.py")
"""The release, in an environment of its own."""

_LABEL = "perturbation"


def score_arms(
    screen: Screen, divisions: Divisions, *, main: bool, seed: int, threads: int, progress: bool
) -> pd.DataFrame:
    """Score every arm in every context with the other release, under the first kind of control cells.

    Parameters
    ----------
    screen, divisions, main, seed
        As `scoring.score_arms` had them; the populations are drawn again, with the same outcome.
    threads
        How many threads its tests take.
    progress
        Whether to show a bar on stderr.

    Returns
    -------
    pd.DataFrame
        Columns: arm, context, perturbation and the metrics that it has; means over training seeds and splits.

    Raises
    ------
    InputError
        Its environment cannot be made, or it fails on these cells.
    """
    python = CELL_EVAL.prepare(progress=progress)
    names_here = {metric.source: metric.name for metric in METRICS.values() if metric.source}
    mode = divisions.modes[0]
    asked = [
        (turn, roles)
        for turn in turns(list_arms(screen, main=main), divisions)
        for roles in turn.roles
        if roles.controls is mode and turn.arm != INTERPOLATED  # which calibrates this package's table
    ]
    frames = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        CELL_EVAL.driver(python) as driver,
        bar(progress, len(screen.scored) * len(asked)) as begin,
    ):
        folder = Path(scratch)
        estimates = Estimates(screen)
        for context, names in screen.scored.items():
            observed: dict[str, Population] = {name: screen.cells(context, name) for name in names}
            views = {roles: View.of(screen, estimates, context, roles) for roles in divisions.of(mode)}
            for roles, view in views.items():
                _write(screen, view.truth, observed, folder / f"observed-{roles.rotation}.h5ad")
            for turn, roles in asked:
                begin(f"{CELL_EVAL.name}, {context}: {turn.arm}")
                view, truth = views[roles], folder / f"observed-{roles.rotation}.h5ad"
                if turn.arm == SPLIT_HALVES:
                    halves = {name: split_halves(screen, context, name, seed + turn.repeat) for name in names}
                    cells: dict[str, Population] = {name: first for name, (first, _) in halves.items()}
                    truth = folder / "half.h5ad"
                    _write(screen, view.truth, {name: second for name, (_, second) in halves.items()}, truth)
                else:
                    cells = {name: draw(view, turn.arm, name, seed=seed, repeat=turn.repeat) for name in names}
                _write(screen, view.known, cells, folder / "predicted.h5ad")
                task = {
                    "predicted": str(folder / "predicted.h5ad"),
                    "observed": str(truth),
                    "control": screen.control,
                    "label": _LABEL,
                    "metrics": list(names_here),
                    "threads": threads,
                }
                scores = pd.DataFrame(driver.ask(task)).rename(columns=names_here)
                kept = ["perturbation", *(name for name in names_here.values() if name in scores)]
                frames.append(pd.DataFrame(scores[kept]).assign(arm=turn.arm, context=context))
        begin("done")
    scores = pd.concat(frames, ignore_index=True)
    return over_repeats(scores, ["arm", "context", "perturbation"], screen.predictions)


def _write(screen: Screen, controls: np.ndarray, cells: Mapping[str, Population], path: Path) -> None:
    """Write control cells, given by their rows, and populations as cell-eval reads them."""
    parts = [screen.observed[controls], *map(sp.csr_matrix, cells.values())]
    labels = np.repeat([screen.control, *cells], [cell_count(part) for part in parts])
    obs = pd.DataFrame({_LABEL: labels}, index=pd.Index([str(i) for i in range(labels.size)]))
    matrix = sp.csr_matrix(sp.vstack(parts, format="csr"), dtype=np.float32)
    ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(screen.genes.astype(str)))).write_h5ad(path)
