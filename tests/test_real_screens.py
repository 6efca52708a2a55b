"""Two public screens through the whole job, shortened.

They are not part of the project: the tests look for them where SCALE_SCREENS says, or beside the repository.
"""

import json
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from experiments.inner_folds.folds import patients, thp1
from experiments.inner_folds.scores import correlations
from experiments.inner_folds.shifts import baseline, fitted

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("SCALE_SCREENS", ROOT.parent / "shared" / "data"))
SCREENS = {
    "glioblastoma_panobinostat": ("gbm_lemur.h5ad", "condition", "ctrl", "patient_id", 1),
    "papalexi_eccite": ("papalexi_lowmoi_sceptre.h5ad", "target", "non-targeting", "batch", 12),
}


@pytest.mark.parametrize("name", SCREENS)
def test_the_whole_job_on_a_real_screen(name, tmp_path, command):
    file, perturbation, control, context, conditions = SCREENS[name]
    screen, split = FOLDER / file, ROOT / "experiments" / "real_screens" / name / "split.toml"
    if not screen.exists():
        pytest.skip(f"{screen} is not there: name its folder in SCALE_SCREENS")
    store, run, predicted, report = (tmp_path / part for part in ("store", "run", "predicted.h5ad", "report"))
    command(
        *("prepare", screen, "--store", store, "--perturbation-key", perturbation),
        *("--control", control, "--context-key", context),
    )
    command(
        *("pretrain", "--store", store, "--split", split, "--out", run),
        *("training.max_steps=80", "training.warmup_steps=5", "training.sets_per_batch=8"),
        *("model.start=none", "model.evidence=off"),
    )
    command("predict", "--checkpoint", run, "--controls", screen, "--like", screen, "--out", predicted)
    command("evaluate", "--predicted", predicted, "--observed", screen, "--split", split, "--out", report)
    metrics = json.loads((report / "metrics.json").read_text())
    assert sum(len(labels) for labels in metrics["settings"]["scored"].values()) == conditions
    scores = metrics["arms"]["prediction"]["metrics"]
    assert all(scores[column] is not None for column in ("MSE", "MAE", "PDCorr", "DEOver", "DEPrec"))
    # Without the linear start an untrained model predicts the control cells: only training can move them the right way.
    assert scores["PDCorr"] > metrics["arms"]["control cells"]["metrics"]["PDCorr"] + 0.05


@pytest.mark.slow
def test_combinations_of_several_contexts_that_come_as_log1p(tmp_path, command):
    """One cell line with pairs `A+B`, three with some of their parts; a pair and a part are predicted unseen."""
    screen, held_out = FOLDER / "perturbench_devel.h5ad", {("k562", "KLF1+MAP2K6"), ("A172", "MAPK1")}
    if not screen.exists():
        pytest.skip(f"{screen} is not there: name its folder in SCALE_SCREENS")
    sections = [f'[fewshot."devel.{context}"]\ntest = ["{label}"]\n' for context, label in sorted(held_out)]
    (tmp_path / "split.toml").write_text('[training]\ndevel = "train"\n\n' + "\n".join(sections))
    command(
        *("prepare", screen, "--store", tmp_path / "store", "--log1p", "--all-genes"),
        *("--perturbation-key", "condition", "--control", "control", "--context-key", "cell_type"),
    )
    command(
        *("pretrain", "--store", tmp_path / "store", "--split", tmp_path / "split.toml", "--out", tmp_path / "run"),
        *("training.max_steps=6", "training.warmup_steps=2", "training.sets_per_batch=4"),
    )
    vocabulary = json.loads((tmp_path / "run" / "run.json").read_text())["vocabulary"]
    assert {"KLF1", "MAP2K6", "SAMD1"} <= set(vocabulary["perturbations"])
    # Two pairs share no part with any other label, and stay names.
    assert {name for name in vocabulary["perturbations"] if "+" in name} == {"CEBPE+RUNX1T1", "FOXL2+HOXB9"}
    predict = ("predict", "--checkpoint", tmp_path / "run", "--controls", screen)
    command(*predict, "--like", screen, "--out", tmp_path / "predicted.h5ad")
    cells, observed = ad.read_h5ad(tmp_path / "predicted.h5ad"), ad.read_h5ad(screen)
    keys = ["cell_type", "condition"]
    found, there = (pd.DataFrame(file.obs[keys]).astype(str).value_counts() for file in (cells, observed))
    assert dict(found) == {condition: there[condition] for condition in held_out}
    assert list(cells.var_names) == list(observed.var_names)
    assert np.isfinite(cells.X.data).all()
    assert cells.X.data.min() >= 0
    # A pair and a triple that no cell shows, in every cell line.
    command(*predict, "--perturbations", "KLF1+SGK1", "KLF1+SGK1+TBX3", "--out", tmp_path / "new.h5ad")
    new = ad.read_h5ad(tmp_path / "new.h5ad")
    assert set(new.obs["condition"]) == {"KLF1+SGK1", "KLF1+SGK1+TBX3"}
    assert set(new.obs["cell_type"]) == {"A172", "T98G", "U87MG", "k562"}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "arguments"), [(patients, ()), (thp1, (1,))], ids=["glioblastoma", "thp1"])
def test_inner_folds_see_no_test_condition(make, arguments, tmp_path):
    if not (FOLDER / "gbm_lemur.h5ad").exists() or not (FOLDER / "papalexi_lowmoi_sceptre.h5ad").exists():
        pytest.skip(f"{FOLDER} has not both screens: name their folder in SCALE_SCREENS")
    cells, folds = make(tmp_path, *arguments)
    for fold in folds:
        assert fold.apart
        assert not set(fold.apart) & {*fold.train, *fold.held_out}
        assert not set(fold.train) & set(fold.held_out)
    if make is patients:  # on THP-1 the two are level where no comparison shares control cells
        default, plain = (
            correlations(cells, folds, shifts).mean() for shifts in (fitted(), baseline("transferred_delta"))
        )
        assert default > plain + 0.05
    # Shifts of a fold do not depend on what the fold does not train on.
    fold, shifts = folds[0], fitted()
    before = shifts(cells, fold)
    for condition in (*fold.apart, *fold.held_out):
        cells.means.mean[cells.index(condition)] = np.full(len(cells.genes), 3.0)
    for condition, delta in shifts(cells, fold).items():
        np.testing.assert_array_equal(delta, before[condition])
