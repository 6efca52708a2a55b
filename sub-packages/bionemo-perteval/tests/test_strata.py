"""Strata of conditions, and the calibration of metrics."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bionemo.perteval import METRICS
from bionemo.perteval.metrics.calibration import calibrate
from bionemo.perteval.metrics.strata import ahead, place
from bionemo.perteval.report.page import html

PDCORR, MSE = METRICS["PDCorr"], METRICS["MSE"]


def _scores(values, de_genes=None):
    """Scores of arms in one context: arm -> one value a perturbation, in PDCorr and, less 1, in MSE."""
    rows = [
        {"arm": arm, "context": "A", "perturbation": f"p{i}", "PDCorr": value, "MSE": 1 - value,
         "n_de_observed": (de_genes or [20] * len(of))[i]}
        for arm, of in values.items()
        for i, value in enumerate(of)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _calibrated(values):
    scores = _scores(values)
    table = scores.groupby("arm")[["PDCorr", "MSE"]].mean()
    return calibrate(scores, table, negatives=["none"], positives=["half", "duplicate"], metrics=[PDCORR, MSE])


def test_a_metric_tells_where_a_replicate_is_better_by_more_than_its_interval():
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.normal(size=20)
    found = _calibrated({"none": noise, "half": 0.5 - noise, "duplicate": 0.4 + noise})
    assert np.all(found["tells"])
    assert list(found["positive"]) == ["half", "half"]
    assert found.loc["PDCorr", "difference"] == pytest.approx(found.loc["MSE", "difference"])
    assert found.loc["PDCorr", "separation"] > 1
    assert found.loc["MSE", "wins"] == 1


@pytest.mark.parametrize("less", [0.0, 0.3])
def test_a_metric_does_not_tell_where_a_replicate_is_no_better(less):
    rng = np.random.default_rng(0)
    of = {arm: rng.normal(size=20) for arm in ("none", "half", "duplicate")}
    found = _calibrated({**of, "none": of["none"] + less + max(of["half"].mean(), of["duplicate"].mean())})
    assert not np.any(found["tells"])
    assert np.all(found["separation"] < 1)


def test_one_condition_and_a_control_without_scores_tell_nothing():
    assert not np.any(_calibrated({"none": [0.0], "half": [1.0], "duplicate": [1.0]})["tells"])
    found = _calibrated({"none": [np.nan] * 4, "half": [1.0] * 4, "duplicate": [1.0] * 4})
    assert not np.any(found["tells"])
    assert np.all(found["difference"].isna())


def test_conditions_are_placed_by_saturation_and_de_genes():
    half = 1 / 3  # 0.5 after Spearman-Brown
    values = {
        "none": [0.0, 0.1, np.nan, 0.0, 0.4],
        "best": [0.4, 0.1 + 0.39 * 0.4, 0.3, 0.2, 0.2],
        "half": [half, half, half, half, 0.1],
    }
    placed = place(_scores(values, [0, 2, 3, 9, 10]), baseline="best", negative="none", replicate="half")
    assert list(placed["saturation"][:4]) == pytest.approx([0.8, 0.39, 0.6, 0.4])
    assert list(placed["difficulty"]) == ["saturated", "resistant", "middle", "resistant", "unmeasured"]
    assert list(placed["strength"]) == ["weak", "weak", "middle", "middle", "strong"]


def test_a_prediction_meets_the_best_baseline_of_each_stratum():
    values = {
        "model": [0.5, 0.5, 0.7, 0.7],
        "first": [0.9, 0.9, 0.1, 0.1],
        "second": [0.2, 0.2, 0.4, 0.4],
    }
    scores = _scores(values)
    index = pd.MultiIndex.from_product([["A"], [f"p{i}" for i in range(4)]], names=["context", "perturbation"])
    placed = pd.DataFrame({"difficulty": ["saturated"] * 2 + ["resistant"] * 2, "strength": "strong"}, index=index)
    found = ahead(
        scores, placed, predictions=["model"], baselines=["first", "second"], metrics=[PDCORR, MSE]
    ).set_index(["by", "stratum", "metric"])
    assert found.loc[("difficulty", "saturated", "PDCorr"), "baseline"] == "first"
    assert found.loc[("difficulty", "saturated", "PDCorr"), "difference"] == pytest.approx(-0.4)
    assert found.loc[("difficulty", "resistant", "PDCorr"), "baseline"] == "second"
    # Above 0 is better, also where the metric is an error.
    assert found.loc[("difficulty", "resistant", "MSE"), ["low", "high"]].tolist() == pytest.approx([0.3, 0.3])
    assert found.loc[("all", "all", "PDCorr"), "conditions"] == 4
    assert ("strength", "weak", "PDCorr") not in found.index


def test_the_page_greys_a_metric_that_tells_nothing_and_says_why(evaluation):
    frame = evaluation.per_perturbation.copy()
    ceilings = frame.arm.isin([name for name, arm in evaluation.arms.items() if arm.kind == "ceiling"])
    frame.loc[ceilings, "MAE"] = 9.0
    frame.loc[ceilings, "PDCorr"] = [0.97, 0.98, 0.99, 0.96] * 2
    page = html(replace(evaluation, per_perturbation=frame))
    assert "MAE cannot tell another measurement of the cells from a baseline that knows no perturbation: " in page
    assert "PDCorr cannot tell" not in page
    assert '<th scope="col" aria-sort="none" class="grey"' in page
