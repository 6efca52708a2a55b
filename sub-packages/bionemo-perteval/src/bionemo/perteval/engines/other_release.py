"""Score with the current release of cell-eval beside ours, in an environment of its own.

It scores the same arms from the same cells, but tests them itself: it corrects for multiple testing within each
perturbation, not over all, and ranks genes by the absolute log fold change of pseudobulks with a small constant added.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from bionemo.perteval.engines.environment import LABEL, Environment, write_cells
from bionemo.perteval.inputs.divisions import Divisions
from bionemo.perteval.inputs.screen import Population, Screen
from bionemo.perteval.metrics.registry import METRICS
from bionemo.perteval.metrics.scores import over_repeats
from bionemo.perteval.populations.catalogue import draw, list_arms, turns
from bionemo.perteval.populations.ceiling import INTERPOLATED, SPLIT_HALVES, split_halves
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.populations.views import View
from bionemo.perteval.progress import bar

CELL_EVAL = Environment(package="cell-eval", release="0.8.2")
"""The release, in an environment of its own."""


def score_arms(
    screen: Screen, divisions: Divisions, *, main: bool, seed: int, threads: int, progress: bool
) -> pd.DataFrame:
    """Score every arm in every context with the other release, under the first kind of control cells.

    The populations of `scoring.score_arms` are drawn again, with the same outcome.

    Returns
    -------
    pd.DataFrame
        Columns: arm, context, perturbation and the metrics that it has; means over training seeds and splits.

    Raises
    ------
    InputError
        Its environment cannot be made, or it fails on these cells.
    """
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
        CELL_EVAL.driver(progress=progress) as ask,
        bar(progress, len(screen.scored) * len(asked)) as begin,
    ):

        def write(name: str, controls: np.ndarray, cells: Mapping[str, Population]) -> str:
            """Write control cells, given by their rows, and populations as cell-eval reads them; return the file."""
            write_cells(Path(scratch) / name, screen.genes, {screen.control: screen.observed[controls], **cells})
            return str(Path(scratch) / name)

        estimates = Estimates(screen)
        for context, names in screen.scored.items():
            observed = {name: screen.cells(context, name) for name in names}
            views = {roles: View.of(screen, estimates, context, roles) for roles in divisions.of(mode)}
            truths = {
                roles: write(f"observed-{roles.rotation}.h5ad", view.truth, observed) for roles, view in views.items()
            }
            for turn, roles in asked:
                begin(f"{CELL_EVAL.name}, {context}: {turn.arm}")
                view, truth = views[roles], truths[roles]
                if turn.arm == SPLIT_HALVES:
                    halves = {name: split_halves(screen, context, name, seed + turn.repeat) for name in names}
                    cells: dict[str, Population] = {name: first for name, (first, _) in halves.items()}
                    truth = write("half.h5ad", view.truth, {name: second for name, (_, second) in halves.items()})
                else:
                    cells = {name: draw(view, turn.arm, name, seed=seed, repeat=turn.repeat) for name in names}
                task = {
                    "predicted": write("predicted.h5ad", view.known, cells),
                    "observed": truth,
                    "control": screen.control,
                    "label": LABEL,
                    "metrics": list(names_here),
                    "threads": threads,
                }
                scores = pd.DataFrame(ask(task)).rename(columns=names_here)
                kept = ["perturbation", *(name for name in names_here.values() if name in scores)]
                frames.append(pd.DataFrame(scores[kept]).assign(arm=turn.arm, context=context))
        begin("done")
    scores = pd.concat(frames, ignore_index=True)
    return over_repeats(scores, ["arm", "context", "perturbation"], screen.predictions)
