"""Baselines on real screens stand near their published neighbours."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from bionemo.perteval import METRICS, evaluate

SCREENS = Path(os.environ.get("SCALE_SCREENS") or Path(__file__).parents[4] / "shared" / "data")
TARGETS = ["IFNGR1", "JAK2", "STAT1", "IRF1", "CUL3", "BRD4", "SMAD4", "STAT2", "CD86", "ETV7", "UBE2L6", "MARCH8"]


def _screen(name):
    if not (SCREENS / name).is_file():
        pytest.skip(f"{name} is not in {SCREENS}: set SCALE_SCREENS to the directory of the real screens")
    return ad.read_h5ad(SCREENS / name)


def _controls_as_prediction(cells, rows, control_rows):
    """Control cells under the labels of the held-out cells, normalised."""
    rng = np.random.default_rng(0)
    matrix = cells.X[rng.choice(control_rows, rows.size)].toarray().astype(float)
    matrix = np.log1p(matrix / matrix.sum(axis=1, keepdims=True) * 1e4)
    return ad.AnnData(matrix.astype(np.float32), obs=cells.obs.iloc[rows].copy(), var=cells.var.copy())


def _plain(matrix, labels, cells):
    obs = pd.DataFrame({"label": labels}).rename(index=str)
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=cells.var_names))


def _equal_to_cell_eval(cells, scored, controls, keys, folder):
    """Score the same perturbations' cells of other contexts, and compare with what cell-eval says of them."""
    from cell_eval import MetricsEvaluator

    contexts = cells.obs[keys["context_key"]].astype(str).to_numpy()
    labels = cells.obs[keys["perturbation_key"]].astype(str).to_numpy()
    logged = cells.X.toarray().astype(float)
    logged = np.log1p(logged / logged.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
    rng = np.random.default_rng(0)
    elsewhere = [np.flatnonzero((contexts != contexts[row]) & (labels == labels[row])) for row in scored]
    drawn = np.array([rng.choice(rows) for rows in elsewhere])
    prediction = ad.AnnData(logged[drawn], obs=cells.obs.iloc[scored].copy(), var=cells.var.copy())
    ours = evaluate(prediction, cells, **keys, controls="shared", arms="main", progress=False).per_perturbation
    ours = ours[ours.arm == "prediction"].set_index("perturbation").sort_index()
    both = np.concatenate([[keys["control"]] * controls.size, labels[scored]])
    evaluator = MetricsEvaluator(
        _plain(np.concatenate([logged[controls], logged[drawn]]), both, cells),
        _plain(np.concatenate([logged[controls], logged[scored]]), both, cells),
        control_pert=keys["control"],
        pert_col="label",
        num_threads=2,
        outdir=str(folder / "cell-eval"),
    )
    skip = ["pearson_edistance", "clustering_agreement"]
    results, _ = evaluator.compute(skip_metrics=skip, write_csv=False, break_on_error=True)
    theirs = pd.DataFrame(results.to_dict(as_series=False)).set_index("perturbation").sort_index()
    for metric in METRICS.values():
        if metric.source:
            np.testing.assert_allclose(
                ours[metric.name], theirs[metric.source].astype(float), rtol=0, atol=1e-6, err_msg=metric.name
            )


def test_papalexi():
    cells = _screen("papalexi_lowmoi_sceptre.h5ad")
    in_rep_3 = (cells.obs["batch"] == "rep_3").to_numpy()
    rows = np.flatnonzero(in_rep_3 & cells.obs["target"].isin(TARGETS).to_numpy())
    controls = np.flatnonzero(in_rep_3 & (cells.obs["target"] == "non-targeting").to_numpy())
    keys = {"perturbation_key": "target", "context_key": "batch", "control": "non-targeting", "target_sum": 1e4}
    found = evaluate(_controls_as_prediction(cells, rows, controls), cells, **keys, arms="main", progress=False)
    delta = "control cells + transferred delta"
    assert found.noise["rep_3"] > 0.3
    evaluation = found.shared  # whose neighbours are published
    table = evaluation.table
    assert table.loc[delta, "PDCorr"] == pytest.approx(0.391, abs=0.06)
    assert table.loc[delta, "MSE"] == pytest.approx(0.045, abs=0.01)
    assert table.loc["control cells", "MSE"] == pytest.approx(0.081, abs=0.01)
    assert table.loc[f"{delta}, zero-preserving", "DEOver"] > 1.5 * table.loc[delta, "DEOver"]
    assert table.loc["prediction", "PDCorr"] == pytest.approx(0, abs=0.1)
    assert len(evaluation.settings["training"]) == 63
    assert evaluation.strong.conditions == 5  # IFNGR1, JAK2, STAT1, SMAD4, IRF1
    assert evaluation.strong.table.loc[delta, "PDCorr"] == pytest.approx(0.776, abs=0.03)


@pytest.mark.slow
def test_papalexi_equals_cell_eval(tmp_path):
    cells = _screen("papalexi_lowmoi_sceptre.h5ad")
    in_rep_3 = (cells.obs["batch"] == "rep_3").to_numpy()
    rows = np.flatnonzero(in_rep_3 & cells.obs["target"].isin(TARGETS).to_numpy())
    controls = np.flatnonzero(in_rep_3 & (cells.obs["target"] == "non-targeting").to_numpy())
    keys = {"perturbation_key": "target", "context_key": "batch", "control": "non-targeting", "target_sum": 1e4}
    _equal_to_cell_eval(cells, rows, controls, keys, tmp_path)


def test_gbm_with_one_perturbation(tmp_path):
    cells = _screen("gbm_lemur.h5ad")
    of_patient = (cells.obs["patient_id"] == "PW030").to_numpy()
    rows = np.flatnonzero(of_patient & (cells.obs["condition"] == "panobinostat").to_numpy())
    controls = np.flatnonzero(of_patient & (cells.obs["condition"] == "ctrl").to_numpy())
    keys = {"perturbation_key": "condition", "context_key": "patient_id", "control": "ctrl", "target_sum": 1e4}
    evaluation = evaluate(_controls_as_prediction(cells, rows, controls), cells, **keys, arms="main", progress=False)
    table = evaluation.table
    assert table.loc["control cells + transferred delta", "PDCorr"] == pytest.approx(0.741, abs=0.05)
    assert table.loc["split halves", "PDCorr"] > 0.95
    assert table.loc["prediction", "n_de_predicted"] < 5
    assert np.isnan(table.loc["split halves", "PDCorr_ref"])  # nothing to refer to
    _equal_to_cell_eval(cells, rows, controls, keys, tmp_path)
