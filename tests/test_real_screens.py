"""Two public screens through the whole job, shortened.

They are not part of the project: the tests look for them where SCALE_SCREENS says, or beside the repository.
"""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("SCALE_SCREENS", ROOT.parent / "shared" / "data"))
SCREENS = {
    "glioblastoma_panobinostat": ("gbm_lemur.h5ad", "condition", "ctrl", "patient_id", 1),
    "papalexi_eccite": ("papalexi_lowmoi_sceptre.h5ad", "target", "non-targeting", "batch", 12),
}


@pytest.mark.parametrize("name", SCREENS)
def test_the_whole_job_on_a_real_screen(name, tmp_path, command):
    file, perturbation, control, context, conditions = SCREENS[name]
    screen, split = FOLDER / file, ROOT / "recipes" / name / "split.toml"
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
    )
    command("predict", "--checkpoint", run, "--controls", screen, "--like", screen, "--out", predicted)
    command("evaluate", "--predicted", predicted, "--observed", screen, "--split", split, "--out", report)
    metrics = json.loads((report / "metrics.json").read_text())
    assert sum(len(labels) for labels in metrics["settings"]["scored"].values()) == conditions
    scores = metrics["arms"]["prediction"]["metrics"]
    assert all(scores[column] is not None for column in ("MSE", "MAE", "PDCorr", "DEOver", "DEPrec"))
    # An untrained model predicts the control cells; even a short training must move them the right way.
    assert scores["PDCorr"] > metrics["arms"]["control cells"]["metrics"]["PDCorr"] + 0.05
