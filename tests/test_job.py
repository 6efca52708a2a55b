"""The whole job from a screen to a report, in commands."""

import json
import re
import subprocess

import anndata as ad
import numpy as np
import pytest
from jobs import logged

from bionemo.bench.serving.benchmark import run as serving
from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.model.flops import training_flops
from bionemo.scale.runs.directory import RunDirectory

LOGGED = ("train/gradient_norm", "throughput/step_seconds", "throughput/flops_per_second", "memory/peak_gib")


@pytest.fixture(scope="module")
def run(tmp_path_factory, pretrain):
    """A trained model."""
    out = tmp_path_factory.mktemp("job") / "run"
    done = pretrain(out, "training.max_steps=20", "training.validate_every=10")
    for shown in ("loss=", "cells/s=", "data wait=", "val loss="):
        assert shown in done.stdout
    assert re.search(r"predictions come from .*: a linear start and \d+% of the network", done.stderr)
    return out


@pytest.fixture(scope="module")
def predicted(run, workshop, command):
    """Predictions of the held-out conditions."""
    out = run.with_name("predicted.h5ad")
    screen = workshop / "screen.h5ad"
    command("predict", "--checkpoint", run, "--controls", screen, "--like", screen, "--out", out)
    return out


def test_predictions_mirror_the_held_out_conditions(predicted, workshop):
    made, screen = ad.read_h5ad(predicted), ad.read_h5ad(workshop / "screen.h5ad")
    by = ["context", "perturbation", "batch"]
    held_out = screen[
        screen.obs["context"].eq("context_2") & screen.obs["perturbation"].isin(["perturbation_2", "perturbation_3"])
    ]
    counts = [cells.obs[by].astype(str).value_counts().sort_index() for cells in (made, held_out)]
    assert counts[0].equals(counts[1])
    assert list(made.var_names) == list(screen.var_names)
    assert set(screen.obs.columns) <= set(made.obs.columns)
    assert made.uns["prediction"]["step"] in (10, 20)  # whichever validated better
    # On the count grid of the control cells: zeros are as frequent as cells have them, not smeared away.
    assert 0.4 < np.mean(made.X.toarray() == 0) < 0.9


def test_a_service_is_timed_one_condition_at_a_time_and_many(run, workshop, tmp_path):
    sizes = {"cells": 8, "conditions": 12, "repeats": 20}
    found = serving(run, workshop / "screen.h5ad", **sizes, report=lambda line: None)
    assert found["settings"]["known_conditions"] == 12  # six perturbations, two contexts
    assert set(found["arms"]) == {"loaded", "exported"}
    for arm in found["arms"].values():
        assert 0 < arm["latency_p50_seconds"] <= arm["latency_p95_seconds"]
        assert min(arm["first_seconds"], arm["cells_per_second"], arm["cells_per_cpu_second"]) > 0


def test_a_log_says_what_a_step_costs(run):
    seen = {name: logged(run, name) for name in LOGGED}
    for name, values in seen.items():
        assert sorted(values) == list(range(1, 21)), name
        assert all(np.isfinite(value) and value > 0 for (value,) in values.values()), name
    flops = seen["throughput/flops_per_second"][20][0] * seen["throughput/step_seconds"][20][0]
    assert flops == pytest.approx(
        training_flops(RunDirectory(run).read().model_config(), ComputeConfig(), 120, 4, 16), rel=1e-3
    )
    assert not logged(run, "throughput/mfu")


def test_evaluate_puts_the_prediction_among_its_baselines(predicted, workshop, command):
    report = predicted.with_name("report")
    done = command(
        *("evaluate", "--predicted", predicted, "--observed", workshop / "screen.h5ad"),
        *("--split", workshop / "split.toml", "--out", report),
    )
    assert "control cells" in done.stdout
    metrics = json.loads((report / "metrics.json").read_text())
    assert {"prediction", "control cells", "control cells + transferred delta"} <= set(metrics["arms"])
    assert ["context_2", "perturbation_1"] in metrics["settings"]["held_out"]
    assert (report / "report.html").stat().st_size > 10_000
    assert (report / "metrics.csv").exists()


def test_inspect_shows_the_store(workshop, command):
    done = command("inspect", workshop / "store")
    assert "1,600" in done.stdout
    assert "context_2" in done.stdout
    assert "verified" in done.stdout


def test_a_perturbation_never_seen_is_refused_by_name(run, workshop, command, tmp_path):
    done = command(
        *("predict", "--checkpoint", run, "--controls", workshop / "screen.h5ad", "--out", tmp_path / "p.h5ad"),
        *("--perturbations", "perturbation_1", "perturbation_x"),
        code=2,
    )
    assert "'perturbation_x' was never seen in training" in done.stderr
    assert not (tmp_path / "p.h5ad").exists()


def test_another_seed_for_the_same_run_is_refused(run, pretrain):
    done = pretrain(run, "training.max_steps=20", "training.seed=1", code=2)
    assert "training.seed=0, not 1" in done.stderr


@pytest.mark.slow
def test_weights_and_biases_keeps_the_curves_of_a_run_without_a_network(pretrain, tmp_path, monkeypatch, environment):
    monkeypatch.setitem(environment, "WANDB_MODE", "offline")
    pretrain(
        tmp_path / "run", "training.max_steps=4", "training.validate_every=2", "training.wandb_project=perturbations"
    )
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    for name in ("train/loss", "val/pdcorr", *LOGGED):
        assert name.encode() in kept.read_bytes(), name


@pytest.mark.slow
def test_weights_and_biases_without_an_account_is_a_sentence(pretrain, tmp_path, monkeypatch, environment):
    for name, value in (("WANDB_MODE", "online"), ("WANDB_API_KEY", ""), ("HOME", str(tmp_path))):
        monkeypatch.setitem(environment, name, value)
    done = pretrain(tmp_path / "run", "training.max_steps=4", "training.wandb_project=perturbations", code=2)
    assert "set WANDB_MODE=offline" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_nemo_plug_in_runs_the_same_training(workshop, tmp_path, environment):
    done = subprocess.run(
        [
            *("nemo", "scale", "pretrain", "--factory", "scale_tiny", f"store={workshop / 'store'}"),
            *(f"split={workshop / 'split.toml'}", f"out={tmp_path / 'run'}", "training.max_steps=2"),
            *("training.warmup_steps=1", "training.sets_per_batch=4", "--yes"),
        ],
        env={**environment, "NEMORUN_HOME": str(tmp_path / "nemo_run")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoints" / "step=2").is_dir()
