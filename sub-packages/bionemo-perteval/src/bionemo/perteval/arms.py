"""Score every arm in every context: the prediction, the baselines and the ceiling."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pandas as pd
import scipy.sparse as sp

from bionemo.perteval import scoring
from bionemo.perteval.baselines import BASELINES, PREDICTION, SPLIT_HALVES, Baseline, split_halves, untrained
from bionemo.perteval.metrics import METRICS
from bionemo.perteval.profiles import Profiles, Summaries
from bionemo.perteval.screen import Screen, cell_count, generator

SPLIT_REPEATS = 1
"""How many times the observed cells are split for the ceiling; its scores are means over the splits."""

Cells = dict[str, sp.csr_matrix]
"""Perturbation -> its cells in one context, log1p [n, G]."""


def definitions(screen: Screen) -> dict[str, str]:
    """Return arm -> what it is, in the order of the tables."""
    return {
        PREDICTION: "The predicted cells.",
        **{name: baseline.definition for name, baseline in _baselines(screen).items()},
        SPLIT_HALVES: "One half of the observed cells scored against the other: what a second experiment of half the "
        "size would reach. Fewer cells have noisier means and fewer DE genes, so this is a cautious ceiling.",
    }


def score_arms(screen: Screen, *, seed: int, processes: int, progress: bool) -> tuple[pd.DataFrame, Profiles]:
    """Draw and score every arm in every context.

    Parameters
    ----------
    screen
        The cells.
    seed
        Of every draw.
    processes
        Worker processes of the tests.
    progress
        Whether to show a bar on stderr.

    Returns
    -------
    per_perturbation : pd.DataFrame
        Columns: arm, context, perturbation, n_cells, the names of `METRICS`.
    profiles : Profiles
        What the pictures are drawn from.
    """
    baselines = _baselines(screen)
    summaries = Summaries(screen.genes)
    frames = []
    with _bar(progress, len(screen.scored) * (1 + len(baselines) + SPLIT_REPEATS)) as begin:
        for context, perturbations in screen.scored.items():
            controls = screen.control_cells(context)

            def side(cells: Cells, controls: sp.csr_matrix = controls) -> scoring.Side:
                return scoring.side(controls, screen.control, cells, screen.genes, processes=processes)

            observed = {name: screen.cells(context, name) for name in perturbations}
            summaries.add("observed", context, observed)
            observed_side = side(observed)
            for arm in (PREDICTION, *baselines):
                begin(f"{context}: {arm}")
                cells = _draw(screen, context, baselines.get(arm), seed)
                summaries.add(arm, context, cells)
                frames.append(_labelled(scoring.score(side(cells), observed_side), arm, context, cells))
            repeats = []
            for repeat in range(SPLIT_REPEATS):
                begin(f"{context}: {SPLIT_HALVES}")
                halves = {name: split_halves(screen, context, name, seed + repeat) for name in perturbations}
                first, second = ({name: half[which] for name, half in halves.items()} for which in (0, 1))
                summaries.add(SPLIT_HALVES, context, first)
                repeats.append(_labelled(scoring.score(side(first), side(second)), SPLIT_HALVES, context, first))
            frames.append(_mean(repeats))
        begin("done")
    scores = pd.concat(frames, ignore_index=True)
    order = {arm: place for place, arm in enumerate(definitions(screen))}
    scores = scores.sort_values("arm", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return scores, summaries.profiles(screen, scores)


def notes(screen: Screen) -> list[str]:
    """Say what the scores rest on."""
    said = []
    unknown = untrained(screen)
    if screen.training and unknown:
        said.append(
            f"No training context has {', '.join(unknown)}: the baselines used the mean over the training "
            "perturbations there."
        )
    if screen.library is None:
        said.append(
            "The observed file holds log1p values, not counts, so there is no count grid and the zero-preserving "
            "baseline is missing; give counts to have it."
        )
    single = [context for context, names in screen.scored.items() if len(names) == 1]
    if single:
        said.append(f"PDS_l1 is 1 by construction where one perturbation is scored: {', '.join(single)}.")
    said.append(
        "The same observed control cells stand on both sides, which raises PDCorr a little for every arm, the ceiling "
        "included."
    )
    return said


def _baselines(screen: Screen) -> dict[str, Baseline]:
    return {name: baseline for name, baseline in BASELINES.items() if baseline.exists_for(screen)}


def _draw(screen: Screen, context: str, baseline: Baseline | None, seed: int) -> Cells:
    """Return the cells of a baseline, or the predicted ones."""
    names = screen.scored[context]
    if baseline is None:
        return {name: screen.predicted[context, name] for name in names}
    return {name: baseline.draw(screen, context, name, generator(seed, baseline.name, context, name)) for name in names}


def _labelled(scores: pd.DataFrame, arm: str, context: str, cells: Cells) -> pd.DataFrame:
    """Return one row per perturbation with arm, context and number of cells in front."""
    frame = scores.reset_index()
    frame = frame.assign(arm=arm, context=context, n_cells=[cell_count(cells[name]) for name in frame["perturbation"]])
    columns = ["arm", "context", "perturbation", "n_cells", *(metric.name for metric in METRICS)]
    return pd.DataFrame(frame[columns])


def _mean(repeats: list[pd.DataFrame]) -> pd.DataFrame:
    """Average repeated scores of the same perturbations."""
    labels = ["arm", "context", "perturbation", "n_cells"]
    means = pd.DataFrame(pd.concat(repeats).groupby(labels, sort=False).mean())
    return pd.DataFrame(means.reset_index())


def _bar(progress: bool, total: int) -> AbstractContextManager[Callable[[str], None]]:
    """Return a context manager whose value says which step begins."""
    return _Bar(total) if progress else nullcontext(lambda step: None)


class _Bar:
    """A rich progress bar on the stderr of now, drawn without a thread: the tests fork this process."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[step]}"),
            console=Console(file=sys.stderr),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total, step="")
        self._begun = 0

    def __enter__(self) -> Callable[[str], None]:
        self._progress.__enter__()
        return self._begin

    def __exit__(self, *error) -> None:
        self._progress.__exit__(*error)

    def _begin(self, step: str) -> None:
        self._progress.update(self._task, completed=self._begun, step=step, refresh=True)
        self._begun += 1
