"""Scores of shifts, and, by the evaluation's own code, of populations."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bionemo.perteval.metrics.scores import score
from bionemo.perteval.metrics.sides import Side
from bionemo.perteval.significance import mann_whitney
from bionemo.perteval.significance.mann_whitney import Tested
from experiments.inner_folds.folds import Cells, Condition, Fold
from experiments.inner_folds.populations import Make
from experiments.inner_folds.shifts import Shifts

METRICS = ("MSE", "MAE", "PDCorr", "DEOver", "DEPrec", "LFCSpear", "DirAgr", "n_de_observed", "n_de_predicted")
STRONG = 10
"""Conditions of so many observed DE genes or more are averaged apart."""


def correlations(cells: Cells, folds: Sequence[Fold], shifts: Shifts) -> np.ndarray:
    """Correlation of predicted and observed delta, exact means, averaged over the conditions of each fold [folds]."""
    found = []
    for fold in folds:
        values, turned = [], cells.turned(fold.rotation)
        for condition, delta in shifts(turned, fold).items():
            control = turned.control_mean(condition[0])
            predicted = np.maximum(control + delta, 0) - control
            values.append(np.corrcoef(predicted, turned.delta(condition))[0, 1])
        found.append(np.mean(values))
    return np.array(found)


def table(cells: Cells, folds: Sequence[Fold], arms: Mapping[str, tuple[Shifts, Make]]) -> pd.DataFrame:
    """One row for each arm, fold and held-out condition: arm, fold, perturbation and the metrics of its population.

    Parameters
    ----------
    cells
        The screen.
    folds
        All conditions that a fold holds out are of one context.
    arms
        Name -> shifts and what makes cells of them.
    """
    scores = {rotation: Scores(cells.turned(rotation)) for rotation in {fold.rotation for fold in folds}}
    rows = []
    for number, fold in enumerate(folds):
        turned = cells.turned(fold.rotation)
        made: dict[Shifts, dict[Condition, np.ndarray]] = {}
        for name, (shifts, make) in arms.items():
            if shifts not in made:
                made[shifts] = shifts(turned, fold)
            rng = np.random.default_rng(number)
            found = {c: make(turned, fold, c, delta, rng) for c, delta in made[shifts].items()}
            rows.append(scores[fold.rotation].of(fold, found).assign(arm=name, fold=number))
    return pd.concat(rows).reset_index()


class Scores:
    """cell-eval's metrics of populations against observed cells, each side with control cells of its own.

    Tests of the observed are made once.
    """

    def __init__(self, cells: Cells):
        self._cells = cells
        self._input, self._truth = (
            {context: mann_whitney.sort_controls(cells.expression[of(context)]) for context in cells.contexts}
            for of in (lambda context: cells.rows[context, cells.control], cells.truth_rows.__getitem__)
        )
        self._observed: dict[Condition, Tested] = {}

    def of(self, fold: Fold, populations: Mapping[Condition, np.ndarray]) -> pd.DataFrame:
        """Return the metrics of the populations of a fold, a row for each perturbation."""
        context = fold.held_out[0][0]
        names = sorted(label for _, label in fold.held_out)
        seen = [self._test_observed((context, name)) for name in names]
        reference = np.mean([tested.moments.mean for tested in seen], axis=0)
        made = [mann_whitney.sort_cells(populations[context, name].astype(np.float32)) for name in names]
        tests = [mann_whitney.test(cells, self._input[context]) for cells in made]
        sides = ((tests, self._input), (seen, self._truth))
        return pd.DataFrame(
            score(
                *(
                    Side(
                        perturbations=names,
                        control=self._cells.control,
                        genes=self._cells.genes,
                        control_mean=controls[context].moments.mean,
                        reference=reference,
                        tests=tested,
                    )
                    for tested, controls in sides
                )
            )[list(METRICS)]
        )

    def _test_observed(self, condition: Condition) -> Tested:
        if condition not in self._observed:
            cells = self._cells.expression[self._cells.rows[condition]]
            self._observed[condition] = mann_whitney.test(mann_whitney.sort_cells(cells), self._truth[condition[0]])
        return self._observed[condition]


def averages(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over the conditions of a fold, then over folds; LFCSpear of strong conditions beside. Index: arm."""
    metrics = list(METRICS)
    means = scores.groupby(["arm", "fold"], sort=False)[metrics].mean().groupby("arm", sort=False).mean()
    strong = scores[scores["n_de_observed"] >= STRONG].groupby("arm", sort=False)["LFCSpear"].mean()
    return means.assign(LFCSpear_strong=strong)
