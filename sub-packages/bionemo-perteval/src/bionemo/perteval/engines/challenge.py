"""Score with cell-eval2 the members of the Virtual Cell Challenge 2026, in an environment of its own.

A context is a panel: cell-eval2 finds a value for each member over all scored perturbations, and places it between two
points that it finds from the observed cells. 0 is the mean observed response given to every perturbation, 1 is one half
of the observed cells scored against the other, each half with its own half of the control cells. Predicted and observed
cells are both measured against the observed control cells, so the noise of those is in both.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.perteval.engines.environment import Environment
from bionemo.perteval.inputs.divisions import SHARED
from bionemo.perteval.inputs.screen import Population, Screen, cell_count
from bionemo.perteval.populations.catalogue import draw, list_arms
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.populations.views import View
from bionemo.perteval.progress import bar
from bionemo.screens.errors import InputError

CELL_EVAL2 = Environment(package="cell-eval2", release="0.20.0", script="cell_eval2_driver.py")
"""The release, in an environment of its own."""

_LABEL = "perturbation"
_SMALLEST_PANEL = 2


def panels(screen: Screen) -> dict[str, list[str]]:
    """Return context -> scored perturbations, of the contexts with at least two of them."""
    return {context: names for context, names in screen.scored.items() if len(names) >= _SMALLEST_PANEL}


def score_challenge(screen: Screen, *, main: bool, seed: int, threads: int, progress: bool) -> pd.DataFrame:
    """Score every prediction and baseline in every context with at least two scored perturbations.

    Parameters
    ----------
    screen, main, seed
        As `scoring.score_arms` had them; the populations are drawn again, with the same outcome.
    threads
        How many threads the tests take.
    progress
        Whether to show a bar on stderr.

    Returns
    -------
    pd.DataFrame
        One row per arm, context, training seed and member. Columns: arm, context, seed, member, value, zero, one (the
        two points) and scaled, ``(value - zero) / (one - zero)`` with the challenge's clamps; NaN where there is none.

    Raises
    ------
    InputError
        No context has two scored perturbations, the environment cannot be made, or cell-eval2 fails on these cells.
    """
    scored = panels(screen)
    if not scored:
        raise InputError(f"{CELL_EVAL2.name} needs a context with two scored perturbations; leave it out of --engine.")
    python = CELL_EVAL2.prepare(progress=progress)
    arms = {name: arm for name, arm in list_arms(screen, main=main).items() if arm.kind in ("prediction", "baseline")}
    drawn = [(name, repeat) for name, arm in arms.items() for repeat in range(arm.repeats)]
    estimates = Estimates(screen)
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        CELL_EVAL2.driver(python) as driver,
        bar(progress, len(scored) * (len(drawn) + 1)) as begin,
    ):
        for place, (context, names) in enumerate(scored.items()):
            folder = Path(scratch) / str(place)
            folder.mkdir()
            view = View.of(screen, estimates, context, SHARED)
            controls = observed_counts(screen, screen.rows[context, screen.control])
            truth = {name: observed_counts(screen, screen.rows[context, name]) for name in names}
            _write(screen, controls, truth, folder / "observed.h5ad")
            task = {
                "observed": str(folder / "observed.h5ad"),
                "control": screen.control,
                "label": _LABEL,
                "targets": {name: name in set(screen.genes) for name in names},
                "threads": threads,
                "cache": str(folder / "cache"),
            }
            begin(f"{CELL_EVAL2.name}, {context}: its 0 and 1")
            points = driver.ask(task)
            for arm, repeat in drawn:
                begin(f"{CELL_EVAL2.name}, {context}: {arm}")
                cells = {name: draw(view, arm, name, seed=seed, repeat=repeat) for name in names}
                _write(screen, controls, {name: _per_cell(of) for name, of in cells.items()}, folder / "predicted.h5ad")
                found = driver.ask({**task, **points, "predicted": str(folder / "predicted.h5ad")})
                rows += [
                    {
                        "arm": arm,
                        "context": context,
                        "seed": repeat,
                        "member": member,
                        "value": found["values"].get(member),
                        "zero": points["baseline"].get(member),
                        "one": points["replicate"].get(member),
                        "scaled": found["scaled"].get(member),
                    }
                    for member in points["members"]
                ]
        begin("done")
    return pd.DataFrame(rows).astype(dict.fromkeys(("value", "zero", "one", "scaled"), np.float64))


def observed_counts(screen: Screen, rows: np.ndarray) -> sp.csr_matrix:
    """Return the counts of observed cells [n, G]; where the file holds log1p values, per cell as those say."""
    cells = _per_cell(screen.observed[rows])
    if screen.library is None or screen.target_sum is None:
        return cells
    per_row = np.repeat(screen.library[rows] / screen.target_sum, np.diff(cells.indptr))
    return sp.csr_matrix((np.rint(cells.data * per_row), cells.indices, cells.indptr), shape=cells.shape)


def _per_cell(cells: Population) -> sp.csr_matrix:
    """Return the counts per cell of log1p values, float64 [n, G]."""
    counts = sp.csr_matrix(cells, dtype=np.float64)
    return sp.csr_matrix((np.expm1(counts.data), counts.indices, counts.indptr), shape=counts.shape)


def _write(screen: Screen, controls: sp.csr_matrix, cells: Mapping[str, sp.csr_matrix], path: Path) -> None:
    """Write control cells and populations as cell-eval2 reads them."""
    parts = [controls, *cells.values()]
    labels = np.repeat([screen.control, *cells], [cell_count(part) for part in parts])
    obs = pd.DataFrame({_LABEL: labels}, index=pd.Index([str(i) for i in range(labels.size)]))
    matrix = sp.csr_matrix(sp.vstack(parts, format="csr"), dtype=np.float32)
    ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(screen.genes.astype(str)))).write_h5ad(path)
