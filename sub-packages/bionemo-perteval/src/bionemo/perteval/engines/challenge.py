"""Score the members of the Virtual Cell Challenge 2026, with this package's formulas or with cell-eval2 itself.

A context is a panel: each member has a value over all scored perturbations, which is placed between two points that
come from the observed cells. 0 is the mean observed response given to every perturbation, 1 is one half of the observed
cells scored against the other, each half with its own half of the control cells. Predicted and observed cells are both
measured against the observed control cells, so the noise of those is in both.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.perteval.engines.environment import Driver, Environment
from bionemo.perteval.inputs.divisions import SHARED
from bionemo.perteval.inputs.screen import Population, Screen, cell_count
from bionemo.perteval.metrics import challenge
from bionemo.perteval.metrics.challenge_points import Panel
from bionemo.perteval.metrics.panel import Cells
from bionemo.perteval.populations.catalogue import draw, list_arms
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.populations.views import View
from bionemo.perteval.progress import bar
from bionemo.screens.errors import InputError

CELL_EVAL2 = Environment(package="cell-eval2", release="0.20.0", script="cell_eval2_driver.py")
"""The release, in an environment of its own."""

_LABEL = "perturbation"
_SMALLEST_PANEL = 2


class Scorer(Protocol):
    """A `Scorer` has the two points of a panel, and scores cells on it."""

    zero: Mapping[str, float]
    one: Mapping[str, float]

    def score(self, cells: Mapping[str, sp.csr_matrix]) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Return values and scaled values of predicted cells, by member; a member without one is left out."""
        ...


def panels(screen: Screen) -> dict[str, list[str]]:
    """Return context -> scored perturbations, of the contexts with at least two of them."""
    return {context: names for context, names in screen.scored.items() if len(names) >= _SMALLEST_PANEL}


def score_challenge(
    screen: Screen, *, original: bool, main: bool, seed: int, threads: int, progress: bool
) -> pd.DataFrame:
    """Score every prediction and baseline in every context with at least two scored perturbations.

    Parameters
    ----------
    screen, main, seed
        As `scoring.score_arms` had them; the populations are drawn again, with the same outcome.
    original
        Whether cell-eval2 computes the members, in an environment of its own.
    threads
        How many threads share the perturbations.
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
        raise InputError("The challenge needs a context with two scored perturbations; leave it out of --engine.")
    arms = {name: arm for name, arm in list_arms(screen, main=main).items() if arm.kind in ("prediction", "baseline")}
    drawn = [(name, repeat) for name, arm in arms.items() for repeat in range(arm.repeats)]
    estimates = Estimates(screen)
    rows: list[dict[str, Any]] = []
    with (
        scorers(original=original, threads=threads, progress=progress) as scorer_of,
        bar(progress, len(scored) * (len(drawn) + 1)) as begin,
    ):
        for context, names in scored.items():
            begin(f"challenge, {context}: its 0 and 1")
            scorer = scorer_of(panel_of(screen, context, threads=threads))
            view = View.of(screen, estimates, context, SHARED)
            for arm, repeat in drawn:
                begin(f"challenge, {context}: {arm}")
                cells = Cells(names, partial(_drawn, view, arm, seed=seed, repeat=repeat))
                rows += rows_of(scorer, cells, arm=arm, context=context, seed=repeat)
        begin("done")
    return pd.DataFrame(rows)


@contextlib.contextmanager
def scorers(*, original: bool, threads: int, progress: bool) -> Iterator[Callable[[Panel], Scorer]]:
    """Give what makes a scorer of a panel: by this package, or by cell-eval2 in an environment of its own."""
    with _cell_eval2(threads, progress=progress) if original else contextlib.nullcontext(_Own) as scorer_of:
        yield scorer_of


def rows_of(
    scorer: Scorer, cells: Mapping[str, sp.csr_matrix], *, arm: str, context: str, seed: int
) -> list[dict[str, Any]]:
    """Score predicted cells, and return a row each member, as `score_challenge` has them."""
    values, scaled = scorer.score(cells)
    return [
        {
            "arm": arm,
            "context": context,
            "seed": seed,
            "member": member,
            "value": values.get(member, np.nan),
            "zero": scorer.zero.get(member, np.nan),
            "one": scorer.one.get(member, np.nan),
            "scaled": scaled.get(member, np.nan),
        }
        for member in challenge.MEMBERS
    ]


def panel_of(screen: Screen, context: str, *, threads: int = 1) -> Panel:
    """Return the observed cells of a context."""
    column = {gene: place for place, gene in enumerate(screen.genes.astype(str))}
    return Panel(
        genes=screen.genes.astype(str),
        own_gene={name: column.get(name) for name in screen.scored[context]},
        control=screen.control,
        controls=_counts(screen, screen.rows[context, screen.control]),
        truth=Cells(screen.scored[context], lambda name: _counts(screen, screen.rows[context, name])),
        threads=threads,
    )


class _Own:
    """The members by this package's formulas."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self.zero: Mapping[str, float] = panel.zero
        self.one: Mapping[str, float] = panel.one

    def score(self, cells: Mapping[str, sp.csr_matrix]) -> tuple[Mapping[str, float], Mapping[str, float]]:
        values = self._panel.values(cells)
        return values, challenge.scale(values, self.zero, self.one)


class _CellEval2:
    """The members by cell-eval2, which reads files."""

    def __init__(self, panel: Panel, driver: Driver, folder: Path, threads: int) -> None:
        self._panel, self._driver, self._folder = panel, driver, folder
        self._task = {
            "observed": str(folder / "observed.h5ad"),
            "control": panel.control,
            "label": _LABEL,
            "targets": {name: gene is not None for name, gene in panel.own_gene.items()},
            "threads": threads,
            "cache": str(folder / "cache"),
        }
        self._write(panel.truth, folder / "observed.h5ad")
        self._points = driver.ask(self._task)
        self.zero, self.one = self._points["baseline"], self._points["replicate"]

    def score(self, cells: Mapping[str, sp.csr_matrix]) -> tuple[Mapping[str, float], Mapping[str, float]]:
        self._write(cells, self._folder / "predicted.h5ad")
        found = self._driver.ask({**self._task, **self._points, "predicted": str(self._folder / "predicted.h5ad")})
        return found["values"], found["scaled"]

    def _write(self, cells: Mapping[str, sp.csr_matrix], path: Path) -> None:
        parts = [self._panel.controls, *cells.values()]
        labels = np.repeat([self._panel.control, *cells], [cell_count(part) for part in parts])
        obs = pd.DataFrame({_LABEL: labels}, index=pd.Index([str(i) for i in range(labels.size)]))
        matrix = sp.csr_matrix(sp.vstack(parts, format="csr"), dtype=np.float32)
        ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(self._panel.genes))).write_h5ad(path)


@contextlib.contextmanager
def _cell_eval2(threads: int, *, progress: bool) -> Iterator[Callable[[Panel], Scorer]]:
    """Start cell-eval2, and give what makes a scorer of a panel."""
    python = CELL_EVAL2.prepare(progress=progress)
    with contextlib.ExitStack() as stack:
        driver = stack.enter_context(CELL_EVAL2.driver(python))

        def scorer_of(panel: Panel) -> Scorer:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            return _CellEval2(panel, driver, folder, threads)

        yield scorer_of


def _drawn(view: View, arm: str, name: str, *, seed: int, repeat: int) -> sp.csr_matrix:
    return _per_cell(draw(view, arm, name, seed=seed, repeat=repeat))


def _counts(screen: Screen, rows: np.ndarray) -> sp.csr_matrix:
    """Return the counts of observed cells; where the file holds log1p values, per cell as those say."""
    cells = _per_cell(screen.observed[rows])
    if screen.library is None or screen.target_sum is None:
        return cells
    per_row = np.repeat(screen.library[rows] / screen.target_sum, np.diff(cells.indptr))
    return sp.csr_matrix((np.rint(cells.data * per_row), cells.indices, cells.indptr), shape=cells.shape)


def _per_cell(cells: Population) -> sp.csr_matrix:
    """Return the counts per cell of log1p values, in single precision as files have them."""
    counts = sp.csr_matrix(cells, dtype=np.float64)
    data = np.expm1(counts.data).astype(np.float32).astype(np.float64)
    return sp.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)
