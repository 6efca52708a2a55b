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


class Scores:
    """cell-eval's metrics of populations against observed cells; tests of the observed are made once."""

    def __init__(self, cells: Cells):
        self._cells = cells
        self._controls = {
            context: mann_whitney.sort_controls(cells.expression[cells.rows[context, cells.control]])
            for context in cells.contexts
        }
        self._observed: dict[Condition, Tested] = {}

    def table(self, folds: Sequence[Fold], arms: Mapping[str, tuple[Shifts, Make]]) -> pd.DataFrame:
        """One row for each arm, fold and held-out condition: arm, fold, perturbation and the metrics.

        Parameters
        ----------
        folds
            All conditions that a fold holds out are of one context.
        arms
            Name -> shifts and what makes cells of them.
        """
        rows = []
        for number, fold in enumerate(folds):
            made: dict[Shifts, dict[Condition, np.ndarray]] = {}
            for name, (shifts, make) in arms.items():
                if shifts not in made:
                    made[shifts] = shifts(self._cells, fold)
                rng = np.random.default_rng(number)
                found = {c: make(self._cells, fold, c, delta, rng) for c, delta in made[shifts].items()}
                rows.append(self._score(fold, found).assign(arm=name, fold=number))
        return pd.concat(rows).reset_index()

    def _score(self, fold: Fold, populations: Mapping[Condition, np.ndarray]) -> pd.DataFrame:
        context = fold.held_out[0][0]
        names = sorted(label for _, label in fold.held_out)
        seen = [self._test_observed((context, name)) for name in names]
        reference = np.mean([tested.moments.mean for tested in seen], axis=0)
        controls = self._controls[context]
        made = [mann_whitney.sort_cells(populations[context, name].astype(np.float32)) for name in names]
        tests = [mann_whitney.test(cells, controls) for cells in made]
        scores = score(*(self._side(context, names, side, reference) for side in (tests, seen)))
        return pd.DataFrame(scores[list(METRICS)])

    def _test_observed(self, condition: Condition) -> Tested:
        if condition not in self._observed:
            cells = self._cells.expression[self._cells.rows[condition]]
            self._observed[condition] = mann_whitney.test(mann_whitney.sort_cells(cells), self._controls[condition[0]])
        return self._observed[condition]

    def _side(self, context: str, names: list[str], tests: list[Tested], reference: np.ndarray) -> Side:
        return Side(
            perturbations=names,
            control=self._cells.control,
            genes=self._cells.genes,
            control_mean=self._controls[context].moments.mean,
            reference=reference,
            tests=tests,
        )


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over the conditions of a fold, then over folds; LFCSpear of strong conditions beside. Index: arm."""
    metrics = list(METRICS)
    means = table.groupby(["arm", "fold"], sort=False)[metrics].mean().groupby("arm", sort=False).mean()
    strong = table[table["n_de_observed"] >= STRONG].groupby("arm", sort=False)["LFCSpear"].mean()
    return means.assign(LFCSpear_strong=strong)
