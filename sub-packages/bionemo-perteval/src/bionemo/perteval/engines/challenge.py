"""Score the members of the Virtual Cell Challenge 2026, with this package's formulas or with cell-eval2 itself.

A context is a panel: each member has a value over all scored perturbations, which is placed between two points that
come from the observed cells. 0 is the mean observed response given to every perturbation, 1 is one half of the observed
cells scored against the other, each half with its own half of the control cells. Predicted and observed cells are both
measured against the observed control cells, so the noise of those is in both.
"""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.perteval.engines.environment import LABEL, Ask, Environment, write_cells
from bionemo.perteval.inputs.divisions import SHARED
from bionemo.perteval.inputs.screen import Population, Populations, Screen
from bionemo.perteval.metrics import challenge
from bionemo.perteval.metrics.challenge_points import Panel
from bionemo.perteval.populations.catalogue import draw, list_arms
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.populations.views import View
from bionemo.perteval.progress import bar
from bionemo.screens.errors import InputError

CELL_EVAL2 = Environment(package="cell-eval2", release="0.20.0")
"""The release, in an environment of its own."""

Drawn = tuple[str, int, Callable[[str, str], sp.csr_matrix]]
"""Arm, training seed, and (context, perturbation) -> its counts, float64 [n, G]."""

_SMALLEST_PANEL = 2


def panels(screen: Screen) -> dict[str, list[str]]:
    """Return context -> scored perturbations, of the contexts with at least two of them."""
    return {context: names for context, names in screen.scored.items() if len(names) >= _SMALLEST_PANEL}


def score_challenge(
    screen: Screen, *, original: bool, main: bool, seed: int, threads: int, progress: bool
) -> pd.DataFrame:
    """Score every prediction and baseline in every context with at least two scored perturbations.

    The populations of `scoring.score_arms` are drawn again, with the same outcome. `original` lets cell-eval2 compute
    the members, in an environment of its own. Returns what `score_panels` does.

    Raises
    ------
    InputError
        No context has two scored perturbations, the environment cannot be made, or cell-eval2 fails on these cells.
    """
    scored = panels(screen)
    if not scored:
        raise InputError("The challenge needs a context with two scored perturbations; leave it out of --engine.")
    estimates = Estimates(screen)
    views = {context: View.of(screen, estimates, context, SHARED) for context in scored}

    def panel_of(context: str) -> Panel:
        names, control = scored[context], screen.control
        return Panel(
            genes=screen.genes.astype(str),
            control=control,
            controls=_counts(screen, screen.rows[context, control]),
            truth=Populations(names, lambda name: _counts(screen, screen.rows[context, name])),
            threads=threads,
        )

    def drawn(arm: str, repeat: int, context: str, name: str) -> sp.csr_matrix:
        return _per_cell(draw(views[context], arm, name, seed=seed, repeat=repeat))

    arms = {name: arm for name, arm in list_arms(screen, main=main).items() if arm.kind in ("prediction", "baseline")}
    each = [(name, repeat, partial(drawn, name, repeat)) for name, arm in arms.items() for repeat in range(arm.repeats)]
    return score_panels(scored, panel_of, each, original=original, progress=progress)


def score_panels(
    contexts: Collection[str],
    panel_of: Callable[[str], Panel],
    drawn: Sequence[Drawn],
    *,
    original: bool,
    progress: bool,
) -> pd.DataFrame:
    """Score predicted cells on the panel of every context; one panel is in memory at a time.

    Returns
    -------
    pd.DataFrame
        One row per arm, context, training seed and member. Columns: arm, context, seed, member, value, zero, one (the
        two points) and scaled, ``(value - zero) / (one - zero)`` with the challenge's clamps; NaN where there is none.
    """
    rows: list[dict[str, Any]] = []
    with (
        scorers(original=original, progress=progress) as scorer_of,
        bar(progress, len(contexts) * (len(drawn) + 1)) as begin,
    ):
        for context in contexts:
            begin(f"challenge, {context}: its 0 and 1")
            panel = panel_of(context)
            scorer = scorer_of(panel)
            for arm, seed, counts in drawn:
                begin(f"challenge, {context}: {arm}")
                values, scaled = scorer.score(Populations(list(panel.truth), partial(counts, context)))
                found = {"value": values, "zero": scorer.zero, "one": scorer.one, "scaled": scaled}
                rows += [
                    {"arm": arm, "context": context, "seed": seed, "member": member}
                    | {column: of.get(member, np.nan) for column, of in found.items()}
                    for member in challenge.MEMBERS
                ]
        begin("done")
    return pd.DataFrame(rows)


class _CellEval2:
    """The members by cell-eval2, which reads files; it answers what a `Panel` does."""

    def __init__(self, panel: Panel, ask: Ask, folder: Path):
        self._panel, self._ask, self._folder = panel, ask, folder
        self._task = {
            "observed": self._write("observed.h5ad", panel.truth),
            "control": panel.control,
            "label": LABEL,
            "targets": dict(zip(panel.truth, panel.own.any(axis=1).tolist(), strict=True)),
            "threads": panel.threads,
            "cache": str(folder / "cache"),
        }
        self._points = ask(self._task)
        self.zero, self.one = self._points["baseline"], self._points["replicate"]

    def score(self, cells: Mapping[str, sp.csr_matrix]) -> tuple[dict[str, float], dict[str, float]]:
        found = self._ask({**self._task, **self._points, "predicted": self._write("predicted.h5ad", cells)})
        return found["values"], found["scaled"]

    def _write(self, name: str, cells: Mapping[str, sp.csr_matrix]) -> str:
        write_cells(self._folder / name, self._panel.genes, {self._panel.control: self._panel.controls, **cells})
        return str(self._folder / name)


@contextlib.contextmanager
def scorers(*, original: bool, progress: bool) -> Iterator[Callable[[Panel], Panel | _CellEval2]]:
    """Give what makes a scorer of a panel: the panel itself, or cell-eval2 in an environment of its own."""
    if not original:
        yield lambda panel: panel
        return
    with CELL_EVAL2.driver(progress=progress) as ask, tempfile.TemporaryDirectory() as folder:
        yield lambda panel: _CellEval2(panel, ask, Path(tempfile.mkdtemp(dir=folder)))


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
