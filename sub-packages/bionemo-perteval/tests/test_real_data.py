"""Baselines on real screens stand near their published neighbours."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from bionemo.perteval import evaluate

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


def test_papalexi():
    cells = _screen("papalexi_lowmoi_sceptre.h5ad")
    in_rep_3 = (cells.obs["batch"] == "rep_3").to_numpy()
    rows = np.flatnonzero(in_rep_3 & cells.obs["target"].isin(TARGETS).to_numpy())
    controls = np.flatnonzero(in_rep_3 & (cells.obs["target"] == "non-targeting").to_numpy())
    keys = {"perturbation_key": "target", "context_key": "batch", "control": "non-targeting", "target_sum": 1e4}
    evaluation = evaluate(_controls_as_prediction(cells, rows, controls), cells, **keys, progress=False)
    table = evaluation.table
    delta = "control cells + transferred delta"
    assert table.loc[delta, "PDCorr"] == pytest.approx(0.391, abs=0.06)
    assert table.loc[delta, "MSE"] == pytest.approx(0.045, abs=0.01)
    assert table.loc["control cells", "MSE"] == pytest.approx(0.081, abs=0.01)
    assert table.loc[f"{delta}, zero-preserving", "DEOver"] > 1.5 * table.loc[delta, "DEOver"]
    assert table.loc["prediction", "PDCorr"] == pytest.approx(0, abs=0.1)
    assert len(evaluation.settings["training"]) == 63


def test_gbm_with_one_perturbation():
    cells = _screen("gbm_lemur.h5ad")
    of_patient = (cells.obs["patient_id"] == "PW030").to_numpy()
    rows = np.flatnonzero(of_patient & (cells.obs["condition"] == "panobinostat").to_numpy())
    controls = np.flatnonzero(of_patient & (cells.obs["condition"] == "ctrl").to_numpy())
    keys = {"perturbation_key": "condition", "context_key": "patient_id", "control": "ctrl", "target_sum": 1e4}
    table = evaluate(_controls_as_prediction(cells, rows, controls), cells, **keys, progress=False).table
    assert table.loc["control cells + transferred delta", "PDCorr"] == pytest.approx(0.741, abs=0.05)
    assert table.loc["split halves", "PDCorr"] > 0.95
    assert table.loc["prediction", "n_de_predicted"] < 5
