"""Several predictions, several training seeds, subsets and comparisons."""

import re

import numpy as np
import pandas as pd
import pytest

from bionemo.perteval import evaluate
from bionemo.perteval.cli import named_files
from bionemo.perteval.metrics.challenge import MEMBERS, overview
from bionemo.perteval.report.files import to_dict
from bionemo.perteval.report.page import html
from bionemo.screens import InputError

OPTIONS = {"arms": "main", "threads": 1, "progress": False}
DELTA = "control cells + transferred delta"


@pytest.fixture(scope="module")
def several(noisy, counts):
    """One model with two seeds, the second of them worse, and another model with its genes in another order."""
    worse = noisy.copy()
    worse.X = worse.X * 0.5
    turned = noisy[:, ::-1].copy()
    return evaluate({"scale": [noisy, worse], "state": turned}, counts, held_out=[("C", "p1")], **OPTIONS)


def test_seeds_are_averaged_and_their_spread_is_told(several, evaluation):
    assert several.predictions == ["scale", "state"]
    seeds = several.per_seed_table.loc["scale"]
    pd.testing.assert_series_equal(seeds.loc[0], evaluation.table.loc["prediction"], check_names=False)
    assert several.table.loc["scale", "MSE"] == pytest.approx(seeds["MSE"].mean())
    assert several.seed_spread.loc["scale", "MSE"] == pytest.approx(seeds["MSE"].std())
    assert np.isnan(several.seed_spread.loc["state", "MSE"])
    assert "2 training seeds" in several.arms["scale"].definition


def test_a_failed_seed_is_not_hidden_in_a_mean(noisy, counts, tmp_path):
    """The second seed predicts the control mean for one condition: its shift is zero, so PDCorr has no value."""
    failed = noisy.copy()
    rows = ((failed.obs["line"] == "A") & (failed.obs["gene"] == "p1")).to_numpy()
    shared = {**OPTIONS, "controls": "shared"}
    assert evaluate(noisy, counts, **shared).missing.loc["prediction", "PDCorr"] == 0
    cells = failed.X.toarray()
    cells[rows] = _mean_control(counts, "A")
    failed.X = cells
    found = evaluate({"scale": [noisy, failed, noisy]}, counts, out=tmp_path, **shared)
    scores = found.per_perturbation.set_index(["arm", "context", "perturbation"])
    assert np.isnan(scores.loc[("scale", "A", "p1"), "PDCorr"])
    assert found.missing.loc["scale", "PDCorr"] == 1
    seeds = found.per_seed_table.loc["scale", "PDCorr"]
    assert seeds.loc[1] == pytest.approx(seeds.loc[0])  # all seeds over the conditions that every seed has
    assert found.table.loc["scale", "PDCorr"] == pytest.approx(seeds.mean())
    (said,) = [line for line in found.failed_seeds if "PDCorr in" in line]
    assert said.startswith("Training seed 1 of scale has no PDCorr in 1 of 4 conditions")
    assert said in to_dict(found)["notices"]
    assert said in html(found)


def _mean_control(counts, line):
    cells = counts[((counts.obs["line"] == line) & (counts.obs["gene"] == "ctrl")).to_numpy()].X.toarray()
    return np.log1p(cells / cells.sum(axis=1, keepdims=True) * 1e4).astype(np.float32).mean(axis=0, dtype=np.float64)


def test_a_flag_is_raised_by_any_seed(several):
    raised = {
        name: {flag.check.name for flag in several.flags if flag.arm == name and flag.raised}
        for name in ("scale", "state")
    }
    assert raised["scale"] - raised["state"]  # the second seed has half of the expression


def test_order_of_a_later_predictions_genes_does_not_matter(several, evaluation):
    pd.testing.assert_series_equal(several.table.loc["state"], evaluation.table.loc["prediction"], check_names=False)


def test_comparison_is_paired(several):
    compared = several.comparisons
    assert list(dict.fromkeys(compared.index.droplevel("metric"))) == [
        ("scale", "state"), ("scale", DELTA), ("state", DELTA),
    ]  # fmt: skip
    row = compared.loc[("scale", "state", "MSE")]
    assert row.difference == pytest.approx(several.table.loc["scale", "MSE"] - several.table.loc["state", "MSE"])
    assert row.low <= row.difference <= row.high
    assert row.low > 0  # worse for every condition
    assert row.p_value == pytest.approx(2 / 2**4)  # four of four have one sign
    assert row.conditions == 4
    same = several.compare("state", "state")
    assert (same["difference"].dropna() == 0).all()
    assert (same["p_value"].dropna() == 1).all()
    with pytest.raises(InputError, match="no arm 'stat'"):
        several.compare("scale", "stat")


def test_intervals_hold_the_mean(several):
    for arm in several.arms:
        low, high = several.intervals.loc[(arm, "MSE")]
        assert low <= several.table.loc[arm, "MSE"] <= high


def test_split_has_a_hash(several, evaluation, noisy, counts):
    assert several.settings["conditions_sha256"] == evaluation.settings["conditions_sha256"]
    other = evaluate(noisy, counts, **OPTIONS)  # (C, p1) is training here
    assert other.settings["conditions_sha256"] != evaluation.settings["conditions_sha256"]


def test_strong_subset_is_chosen_by_the_observed_cells(several):
    frame = several.per_perturbation
    strong = frame[(frame.arm == "scale") & (frame.n_de_observed >= 10)]
    kept = several.strong.per_perturbation
    assert 0 < len(strong) == several.strong.conditions
    for arm in several.arms:
        assert set(kept[kept.arm == arm].perturbation) == set(strong.perturbation)


def test_predictions_that_do_not_compare_are_refused(noisy, counts):
    with pytest.raises(InputError, match="need the same conditions"):
        evaluate({"a": noisy, "b": noisy[(noisy.obs["line"] == "A").to_numpy()].copy()}, counts, **OPTIONS)
    with pytest.raises(InputError, match=r"1 genes of a: .* are not in b: "):
        evaluate({"a": noisy, "b": noisy[:, 1:].copy()}, counts, **OPTIONS)
    with pytest.raises(InputError, match="cannot be named 'control cells'"):
        evaluate({"control cells": noisy}, counts, **OPTIONS)


def test_names_on_the_command_line(tmp_path):
    files = named_files(["a=x,y", "b=z", "a=w"])
    assert files == {"a": ["x", "y", "w"], "b": ["z"]}
    assert str(named_files(["x.h5ad"])) == "x.h5ad"
    (tmp_path / "a=b").touch()
    assert named_files([str(tmp_path / "a=b")]) == str(tmp_path / "a=b")
    with pytest.raises(InputError, match="need names"):
        named_files(["a=x", "y.h5ad"])


@pytest.mark.parametrize(("engine", "name"), [("0.8", r"cell-eval 0\.8\.2"), ("cell-eval2", r"cell-eval2 0\.20\.0")])
def test_an_engine_that_cannot_be_installed_is_one_sentence_and_all_else_is_scored(
    engine, name, noisy, counts, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("bionemo.perteval.engines.environment._MAKE", ["-m", "venv", "--without-pip"])
    found = evaluate(noisy, counts, engine=engine, **OPTIONS)
    assert (found.other_engine, found.challenge) == (None, None)
    assert found.table.loc["prediction", "PDCorr"] == found.table.loc["prediction", "PDCorr"]
    assert re.search(f"{name} cannot be installed into .*No module named pip.*--engine", found.notices[-1])


def test_an_unknown_engine_names_the_known(noisy, counts):
    with pytest.raises(InputError, match=r"engine is .0\.7., but it can be 0\.6, 0\.8, vcc2026, cell-eval2"):
        evaluate(noisy, counts, engine="0.7", **OPTIONS)


def test_the_members_of_the_challenge_make_one_score():
    rows = [
        {"arm": arm, "context": context, "seed": seed, "member": member, "scaled": scaled + place}
        for arm, seed, context, scaled in (
            ("m", 0, "A", 0.2),
            ("m", 1, "A", 0.4),
            ("m", 0, "B", 0.5),
            ("m", 1, "B", 0.5),
        )
        for place, member in enumerate(MEMBERS)
    ]
    rows += [{**row, "arm": "n"} for row in rows]
    rows[-1]["scaled"] = np.nan
    table = overview(pd.DataFrame(rows))
    np.testing.assert_allclose(table.loc["m"], [0.4, 1.4, 2.4, 3.4, 4.4, 5.4, 2.9])
    assert list(table.loc["n"].isna()) == [False] * 5 + [True, True]


@pytest.fixture(scope="module")
def contestants(log1p, scored_rows, stated, noisy):
    """The observed cells as a prediction, and one that is wrong."""
    perfect = log1p[scored_rows].copy()
    perfect.uns["prediction"] = dict(stated)
    return {"perfect": perfect, "noisy": noisy}


@pytest.fixture(scope="module")
def challenged(contestants, counts, tmp_path_factory):
    """Two predictions with the members of the challenge, and the folder of their report."""
    folder = tmp_path_factory.mktemp("challenge")
    return evaluate(contestants, counts, engine="vcc2026", out=folder, **OPTIONS), folder


def test_the_challenge_is_scored(challenged):
    found, folder = challenged
    values = found.challenge.pivot(index=["arm", "context"], columns="member", values="value")
    assert list(values.index.unique("context")) == ["A"]
    assert found.notices[-1] == "The challenge leaves out B, where one perturbation is scored."
    assert set(values.columns) == set(MEMBERS)
    best = values.loc[("perfect", "A")]
    assert best[["pds_cosine", "de_wilcoxon_sig_jaccard"]].tolist() == [1, 1]
    assert values.loc[("noisy", "A"), "de_wilcoxon_lfc_nmae"] > best["de_wilcoxon_lfc_nmae"] + 0.2
    assert (found.challenge_table.loc["perfect"].dropna() >= found.challenge_table.loc["noisy"].dropna()).all()
    assert "Virtual Cell Challenge 2026" in (folder / "report.html").read_text()
    assert len(pd.read_csv(folder / "challenge.csv")) == len(found.challenge)


@pytest.mark.slow
def test_the_challenge_is_scored_as_cell_eval2_does(counts):
    """Makes an environment for cell-eval2 where it is not there yet, which takes minutes and the package index."""
    from bionemo.perteval.engines import challenge
    from bionemo.perteval.metrics.challenge_points import Panel

    try:
        challenge.CELL_EVAL2.prepare()
    except InputError as error:
        pytest.skip(str(error))

    def cells(context, name):
        rows = (counts.obs["line"] == context) & (counts.obs["gene"] == name)
        return counts.X[rows.to_numpy()].astype(np.float64)

    names = ("p1", "p2", "p3", "p4")
    # One perturbation targets a gene of the panel.
    genes = np.array(["p2" if place == 7 else name for place, name in enumerate(counts.var_names)])
    truth = {name: cells("A", name) for name in names}
    ours = Panel(genes=genes, control="ctrl", controls=cells("A", "ctrl"), truth=truth)
    with challenge.scorers(original=True, progress=False) as scorer_of:
        theirs = scorer_of(ours)
        assert set(theirs.zero) == set(MEMBERS)
        assert ours.zero == pytest.approx(theirs.zero, abs=1e-6)
        assert ours.one == pytest.approx(theirs.one, abs=1e-6)
        for predicted in (truth, {name: cells("C", name) for name in names}):
            for mine, found in zip(ours.score(predicted), theirs.score(predicted), strict=True):
                assert mine == pytest.approx(found, abs=1e-6)


@pytest.mark.slow
def test_the_current_release_of_cell_eval_scores_the_same_cells(noisy, counts, evaluation):
    """Makes its environment where it is not there yet, which takes minutes and the package index."""
    from bionemo.perteval.engines.other_release import CELL_EVAL

    try:
        CELL_EVAL.prepare()
    except InputError as error:
        pytest.skip(str(error))
    found = evaluate(noisy, counts, held_out=[("C", "p1")], engine="0.8", **OPTIONS)
    pd.testing.assert_frame_equal(
        found.per_perturbation, evaluation.per_perturbation[evaluation.per_perturbation.arm.isin(list(found.arms))]
        .reset_index(drop=True),
    )  # fmt: skip
    ours, theirs = found.versions["cell-eval"], found.versions["other cell-eval"]
    assert theirs == CELL_EVAL.release
    for metric in ("MSE", "MAE", "PDCorr"):  # which do not depend on tests
        both = found.engines.loc[("prediction", metric)]
        assert both[theirs] == pytest.approx(both[ours], abs=1e-6)
    assert to_dict(found)["other_engine"]["prediction"]["DEOver"][1] == pytest.approx(
        found.engines.loc[("prediction", "DEOver"), theirs]
    )


def test_reference_experiment_shows_what_the_metrics_reward():
    from bionemo.perteval.reference import REPLICATE, reference

    found = reference(perturbations=8, cells=100, genes=200, threads=1, progress=False)
    assert found.table.loc["true mean", "PDCorr"] < 1  # measured from other control cells than the truth is
    table = found.shared.table
    assert table.loc["control cells", "PDCorr"] == pytest.approx(0, abs=0.2)
    assert table.loc["true mean", "PDCorr"] == pytest.approx(1)
    assert table.loc["true mean", "DEPrec"] < 0.5 * table.loc[REPLICATE, "DEPrec"]
    assert table.loc["control cells + true delta", "DEPrec"] < 0.7 * table.loc[REPLICATE, "DEPrec"]
    assert table.loc["context mean", "PDS_l1"] == pytest.approx(0.5625)
    assert np.isnan(table.loc["context mean", "PDCorr_ref"])
