"""Combinations, doses, embeddings, a linear start and averaged weights, through the commands."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

SINGLES = ["A", "B", "C", "D", "E"]
LABELS = ["ctrl", *SINGLES, "A+B", "B+C", "D+0.1uM", "D+10uM"]
SPLIT = """\
[training]
screen = "train"

[fewshot."screen.y"]
val = ["A", "B"]
test = ["C", "A+B"]

[fewshot."screen.x"]
test = ["A+B", "E"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, command):
    """A screen whose effects follow from vectors of the perturbations, its store, and a run. Context y never has E."""
    folder = tmp_path_factory.mktemp("conditions")
    rng = np.random.default_rng(0)
    effects = {name: rng.normal(0, 0.6, 60) for name in SINGLES}
    rows = [(line, label) for line in "xy" for label in LABELS if (line, label) != ("y", "E") for _ in range(40)]
    rates = [3 * np.exp(sum(effects.get(part, 0) for part in label.split("+"))) for _, label in rows]
    counts = rng.poisson(np.broadcast_to(np.stack([np.ones(60) * rate for rate in rates]), (len(rows), 60)))
    obs = pd.DataFrame(rows, columns=["line", "target"], index=[f"cell{i}" for i in range(len(rows))])
    ad.AnnData(counts.astype(np.float32), obs=obs).write_h5ad(folder / "screen.h5ad")
    np.savez(folder / "vectors.npz", **effects)
    (folder / "split.toml").write_text(SPLIT)
    command(
        *("prepare", folder / "screen.h5ad", "--store", folder / "store", "--perturbation-key", "target"),
        *("--control", "ctrl", "--context-key", "line", "--all-genes"),
    )
    trained = command(
        *("pretrain", "--store", folder / "store", "--split", folder / "split.toml", "--out", folder / "run"),
        *("--embeddings", folder / "vectors.npz", "model.perturbation_tokens=both", "model.start=linear"),
        *("training.average_decay=0.9", "training.max_steps=12", "training.warmup_steps=2"),
        *("training.validate_every=4", "training.checkpoint_every=4", "training.sets_per_batch=8"),
    )
    assert "val PDCorr=" in trained.stdout
    assert "predicts the validation conditions best so far" in trained.stderr
    return folder


def test_combinations_and_perturbations_that_have_only_an_embedding_are_predicted(folder, command):
    command(
        *("predict", "--checkpoint", folder / "run", "--controls", folder / "screen.h5ad"),
        *("--like", folder / "screen.h5ad", "--part", "test", "--out", folder / "predicted.h5ad"),
    )
    cells = ad.read_h5ad(folder / "predicted.h5ad")
    found = set(cells.obs[["line", "target"]].astype(str).itertuples(index=False, name=None))
    assert found == {("y", "C"), ("y", "A+B"), ("x", "A+B"), ("x", "E")}
    best = json.loads((folder / "run" / "best.json").read_text())
    assert best["metric"] == "val_score"
    assert cells.uns["prediction"]["step"] == best["step"]
    means = {name: cells[cells.obs["target"] == name].X.mean(0) for name in ("C", "A+B")}
    screen = ad.read_h5ad(folder / "screen.h5ad")
    observed = np.log1p(screen.X / screen.X.sum(1, keepdims=True) * 10_000)
    control = observed[(screen.obs["target"] == "ctrl") & (screen.obs["line"] == "y")].mean(0)
    for name, mean in means.items():
        truth = observed[(screen.obs["target"] == name) & (screen.obs["line"] == "y")].mean(0) - control
        assert np.corrcoef(np.ravel(mean) - control, truth)[0, 1] > 0.5, name
