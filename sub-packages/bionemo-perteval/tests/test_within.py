"""Subpopulations are scored apart, though models and splits only know whole contexts."""

import numpy as np
import pytest

from bionemo.perteval import evaluate
from bionemo.screens.errors import InputError

SPLIT = """\
[training]
screen = "train"

[fewshot."screen.A"]
test = ["p1", "p2", "p3"]

[fewshot."screen.B"]
test = ["p2"]
"""


@pytest.fixture
def kinds(counts, perfect):
    """Observed counts and a perfect prediction, both with a column of two kinds of cells and a rare third."""
    observed, predicted = counts.copy(), perfect.copy()
    place = np.arange(observed.n_obs)
    observed.obs["kind"] = np.where(place % 40 == 0, "rare", np.where(place % 2 == 0, "round", "flat"))
    predicted.obs["kind"] = observed.obs["kind"].loc[predicted.obs_names].to_numpy()
    return observed, predicted


@pytest.fixture
def split(tmp_path):
    """A split that names whole contexts."""
    (tmp_path / "split.toml").write_text(SPLIT)
    return tmp_path / "split.toml"


def test_each_subpopulation_is_scored_and_held_out_with_its_context(kinds, split, tmp_path):
    observed, predicted = kinds
    for cells, name in ((observed, "observed"), (predicted, "predicted")):
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    files = tmp_path / "predicted.h5ad", tmp_path / "observed.h5ad"
    found = evaluate(*files, split=split, within="kind", controls="shared", arms="main", progress=False)
    scored = found.settings["scored"]
    assert set(scored) == {"A+flat", "A+round", "B+flat", "B+round"}
    assert scored["A+flat"] == ["p1", "p2", "p3"]
    assert ["A+rare", "p1"] in found.settings["left_out"]
    # p4 of A was not held out, and p1 of B trains the baselines; no part of a held-out condition does.
    training = {tuple(pair) for pair in found.settings["training"]}
    assert {("A+flat", "p4"), ("B+round", "p1"), ("C+rare", "p1")} <= training
    assert not {("A+flat", "p1"), ("A+rare", "p1"), ("B+round", "p2")} & training
    assert found.table.loc["prediction", "PDCorr"] == pytest.approx(1.0, abs=1e-6)


def test_a_model_that_moves_all_kinds_alike_is_behind_one_that_moves_each(kinds):
    observed, predicted = kinds
    alike = predicted.copy()
    rng = np.random.default_rng(0)
    for _, rows in alike.obs.groupby(["line", "gene"]).indices.items():
        # The same cells, each with another's kind: the population is the same, its kinds are not.
        alike.X[rows] = alike.X[rng.permutation(rows)]
    found = evaluate({"each": predicted, "alike": alike}, observed, within="kind", arms="main", progress=False)
    whole = evaluate({"each": predicted, "alike": alike}, observed, arms="main", progress=False)
    assert whole.table.loc["each", "PDCorr"] == pytest.approx(whole.table.loc["alike", "PDCorr"], abs=1e-6)
    assert found.table.loc["each", "PDCorr"] > found.table.loc["alike", "PDCorr"] + 0.05


def test_a_prediction_without_the_column_is_refused_by_name(kinds, perfect):
    observed, _ = kinds
    with pytest.raises(InputError, match="has no obs column 'kind'"):
        evaluate(perfect, observed, within="kind", progress=False)
