"""Scores equal cell-eval's own and hand-worked formulas, and stand where they belong."""

import numpy as np
import pandas as pd
import pytest

from bionemo.perteval import METRICS, InputError, Metric, evaluate, register
from bionemo.screens.controls import ControlRole, ControlRoles, Controls

DELTA = "control cells + transferred delta"
KEPT = f"{DELTA}, zero-preserving"
MAIN = ["prediction", "control cells", "perturbation mean", "control cells + mean delta", DELTA, KEPT, "split halves"]
DIRECTED = [metric.name for metric in METRICS.values() if metric.best]


def _mean(cells, context, gene):
    rows = ((cells.obs["line"] == context) & (cells.obs["gene"] == gene)).to_numpy()
    return np.asarray(cells.X[rows].mean(axis=0, dtype=np.float64)).ravel()


def _has(cells, roles, role):
    return (cells.obs["gene"] == "ctrl").to_numpy() & roles.has(cells.obs_names, role)


def _of(evaluation, arm, context, perturbation):
    frame = evaluation.per_perturbation
    return frame[(frame.arm == arm) & (frame.context == context) & (frame.perturbation == perturbation)].iloc[0]


def _part(evaluation, other):
    """The rows of the full evaluation whose arms the other one has too."""
    frame = evaluation.per_perturbation
    return frame[frame.arm.isin(list(other.arms))].reset_index(drop=True)


@pytest.mark.parametrize("controls", list(Controls))
def test_equal_to_cell_eval_called_directly(noisy, log1p, evaluation, controls, tmp_path):
    """Each side has control cells of its own, or both have all of them."""
    import anndata as ad
    from cell_eval import MetricsEvaluator

    roles = ControlRoles(controls)
    (ours,) = (of.per_perturbation for of in evaluation.kinds if of.controls is controls)
    shared = [metric for metric in METRICS.values() if metric.source]
    for context in ("A", "B"):
        labels = noisy.obs["gene"][noisy.obs["line"] == context].unique()
        in_context = (log1p.obs["line"] == context).to_numpy()
        perturbed = in_context & log1p.obs["gene"].isin(labels).to_numpy()
        known, truth = (in_context & _has(log1p, roles, role) for role in (ControlRole.INPUT, ControlRole.TRUTH))
        real = log1p[perturbed | truth].copy()
        predicted = ad.concat([log1p[known], noisy[(noisy.obs["line"] == context).to_numpy()]], index_unique="-")
        evaluator = MetricsEvaluator(
            predicted, real, control_pert="ctrl", pert_col="gene", num_threads=2, outdir=str(tmp_path / context)
        )
        skip = ["pearson_edistance", "clustering_agreement"]
        results, _ = evaluator.compute(skip_metrics=skip, write_csv=False, break_on_error=True)
        theirs = pd.DataFrame(results.to_dict(as_series=False)).set_index("perturbation").sort_index()
        mine = ours[(ours.arm == "prediction") & (ours.context == context)].set_index("perturbation").sort_index()
        for metric in shared:
            np.testing.assert_allclose(
                mine[metric.name], theirs[metric.source].astype(float), rtol=0, atol=1e-6, err_msg=metric.name
            )


def test_a_new_metric_is_one_entry(noisy, counts, tmp_path):
    register(
        Metric(
            name="Worst",
            best="low",
            definition="Largest difference of a gene.",
            formula=lambda predicted, observed: np.abs(predicted.means - observed.means).max(axis=1),
        )
    )
    try:
        found = evaluate(noisy, counts, arms="main", threads=1, progress=False, out=tmp_path)
        with pytest.raises(InputError, match="a metric 'Worst' already"):
            register(METRICS["Worst"])
        assert found.table.loc["prediction", "Worst"] > found.table.loc["prediction", "MAE"]
        assert "Worst" in found.normalised()
        page = (tmp_path / "report.html").read_text()
        assert "Worst ↓" in page
        assert "Largest difference of a gene." in page
        assert "Worst" in set(pd.read_csv(tmp_path / "metrics.csv")["metric"])
    finally:
        del METRICS["Worst"]


def test_number_of_threads_does_not_matter(noisy, counts, evaluation):
    other = evaluate(noisy, counts, held_out=[("C", "p1")], arms="main", threads=3, progress=False)
    pd.testing.assert_frame_equal(other.per_perturbation, _part(evaluation, other), check_exact=True)


def test_formulas_by_hand(evaluation, noisy, log1p):
    predicted, observed = _mean(noisy, "A", "p2"), _mean(log1p, "A", "p2")
    for of in evaluation.kinds:
        row = _of(of, "prediction", "A", "p2")
        known, truth = (
            _mean(log1p[_has(log1p, ControlRoles(of.controls), role)], "A", "ctrl")
            for role in (ControlRole.INPUT, ControlRole.TRUTH)
        )
        assert pytest.approx(np.mean((predicted - observed) ** 2), abs=1e-5) == row.MSE
        assert pytest.approx(np.mean(np.abs(predicted - observed)), abs=1e-5) == row.MAE
        assert row.PDCorr == pytest.approx(np.corrcoef(predicted - known, observed - truth)[0, 1], abs=1e-5)


def test_perfect_prediction_is_at_the_top(perfect, counts):
    table = evaluate(perfect, counts, controls="shared", arms="main", threads=1, progress=False).table
    assert list(table.index) == MAIN
    assert table.loc["prediction", ["MSE", "MAE"]].to_numpy() == pytest.approx(0, abs=1e-6)
    higher = ["PDCorr", "DEOver", "DEPrec", "LFCSpear", "DirAgr", "PDS_l1", "DERecall"]
    assert table.loc["prediction", higher].to_numpy() == pytest.approx(1, abs=1e-6)
    assert table.loc["prediction", "n_de_predicted"] == table.loc["prediction", "n_de_observed"] > 10


def test_baselines_stand_where_they_belong(evaluation):
    table = evaluation.table
    assert table.loc["control cells", "PDCorr"] == pytest.approx(0, abs=0.25)
    assert table.loc["control cells", "n_de_predicted"] < 2
    delta, kept = DELTA, KEPT
    assert table.loc[delta, "PDCorr"] > 0.5
    assert table.loc[kept, "PDCorr"] == pytest.approx(table.loc[delta, "PDCorr"], abs=0.1)
    assert table.loc[kept, "DEPrec"] > table.loc[delta, "DEPrec"]
    zeros = {arm: fractions.mean() for arm, fractions in evaluation.profiles.zeros.items()}
    assert zeros[delta] < 0.75 * zeros["observed"]
    assert zeros[kept] == pytest.approx(zeros["observed"], abs=0.05)
    assert evaluation.profiles.variances["perturbation mean"].mean() == pytest.approx(0, abs=1e-5)
    assert table.loc["split halves", "PDCorr"] > 0.6
    assert evaluation.shared.table.loc["split halves", "PDCorr"] > 0.7


def test_every_arm_has_the_observed_number_of_cells(evaluation, counts):
    sizes = counts.obs.groupby(["line", "gene"], observed=True).size()
    for row in evaluation.per_perturbation.itertuples():
        expected = sizes[row.context, row.perturbation]
        assert row.n_cells == (expected // 2 if evaluation.arms[row.arm].kind == "ceiling" else expected)


def test_means_are_over_perturbations_then_contexts(evaluation):
    frame = evaluation.per_perturbation
    mine = frame[frame.arm == "prediction"]
    by_hand = np.mean([mine[mine.context == context]["MSE"].mean() for context in ("A", "B")])
    assert evaluation.table.loc["prediction", "MSE"] == pytest.approx(by_hand)
    assert evaluation.table.loc["prediction", "MSE"] != pytest.approx(mine["MSE"].mean())


def test_normalised_is_zero_at_the_baseline_and_one_at_the_ceiling(evaluation):
    normalised = evaluation.normalised()
    assert normalised.loc["control cells"].dropna().to_numpy() == pytest.approx(0)
    assert normalised.loc["split halves"].dropna().to_numpy() == pytest.approx(1)
    table = evaluation.table["DEOver"]
    by_hand = (table["prediction"] - table["control cells"]) / (table["split halves"] - table["control cells"])
    assert normalised.loc["prediction", "DEOver"] == pytest.approx(by_hand)


def test_best_knows_the_direction_and_leaves_the_ceiling_out(evaluation):
    for metric in METRICS.values():
        best = evaluation.best(metric.name)
        if metric.best is None:
            assert not best
            continue
        others = [name for name, arm in evaluation.arms.items() if arm.kind in ("oracle", "ceiling")]
        scores = evaluation.table[metric.name].drop(others)
        assert best == {str(scores.idxmax() if metric.best == "high" else scores.idxmin())} or len(best) > 1


def test_order_of_genes_does_not_matter(noisy, counts, evaluation):
    order = np.random.default_rng(3).permutation(counts.n_vars)
    other = evaluate(noisy, counts[:, order].copy(), held_out=[("C", "p1")], arms="main", threads=1, progress=False)
    pd.testing.assert_frame_equal(other.per_perturbation, _part(evaluation, other))
    both = evaluate(noisy[:, order].copy(), counts, arms="main", threads=1, progress=False)
    np.testing.assert_allclose(
        both.table.loc["prediction", DIRECTED].astype(float),
        evaluation.table.loc["prediction", DIRECTED].astype(float),
        atol=1e-5,
    )


def test_same_seed_same_numbers_whatever_else_is_scored(noisy, counts, evaluation):
    alone = noisy[(noisy.obs["line"] == "B").to_numpy()].copy()
    again = evaluate(
        alone,
        counts,
        held_out=[("C", "p1"), *[("A", f"p{i}") for i in (1, 2, 3)]],
        arms="main",
        threads=1,
        progress=False,
    )
    pd.testing.assert_frame_equal(
        again.per_perturbation,
        _part(evaluation, again).query("context == 'B'").reset_index(drop=True),
    )


def test_controls_in_the_prediction_are_ignored(noisy, counts, evaluation):
    import anndata as ad

    wrong = ad.AnnData(noisy.X[:50] * 1.3, obs=noisy.obs.iloc[:50].assign(gene="ctrl"), var=noisy.var)
    joined = ad.concat([noisy, wrong], index_unique="-")
    joined.uns = noisy.uns
    other = evaluate(joined, counts, held_out=[("C", "p1")], arms="main", threads=1, progress=False)
    pd.testing.assert_frame_equal(other.per_perturbation, _part(evaluation, other))


def test_log1p_observed_gives_the_same_scores_without_a_count_grid(noisy, log1p, evaluation):
    other = evaluate(noisy, log1p, held_out=[("C", "p1")], arms="main", threads=1, progress=False)
    assert KEPT not in other.table.index
    assert any("count grid" in note for note in other.notes)
    assert any("made from counts" in note for note in other.notes)
    pd.testing.assert_frame_equal(other.table, evaluation.table.loc[list(other.arms)], atol=1e-5)


def test_another_number_of_predicted_cells_is_resampled_and_said(noisy, counts):
    keep = np.sort(np.random.default_rng(4).permutation(noisy.n_obs)[: noisy.n_obs // 2])
    half = evaluate(noisy[keep].copy(), counts, arms="main", threads=1, progress=False)
    frame = half.per_perturbation
    assert frame[frame.arm == "prediction"].n_cells.sum() == noisy.n_obs
    assert any("4 of 4 conditions" in note and "resampled" in note for note in half.notes)


def test_one_perturbation_in_one_context(noisy, counts):
    single = evaluate(
        noisy[(noisy.obs["line"] == "B").to_numpy()].copy(), counts, arms="main", threads=1, progress=False
    )
    assert single.table.loc["prediction", "PDS_l1"] == 1
    assert any("by construction" in note for note in single.notes)
