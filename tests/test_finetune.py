"""Finetuning as a user starts it: on a second screen, interrupted, on two processes, and as its recipe says."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from jobs import gradients, logged, saved_weights

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "finetune_new_screen"
FOLDER = Path(os.environ.get("SCALE_SCREENS", ROOT.parent / "shared" / "data"))
SPLIT = """\
[training]
second = "train"

[fewshot."second.line_2"]
val = ["perturbation_1"]
test = ["perturbation_2", "novel_4"]
"""
SETTINGS = (
    *("training.sets_per_batch=4", "training.cells_per_set=16", "training.log_every=1", "training.warmup_steps=2"),
    *("training.max_steps=12", "training.checkpoint_every=4", "training.validate_every=6"),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def second(tmp_path_factory, workshop, pretrain, command) -> Path:
    """A folder with a run, and a second screen: other contexts, some perturbations new, genes in another order."""
    folder = tmp_path_factory.mktemp("second")
    pretrain(folder / "old", "training.max_steps=30", "training.average_decay=0.9")
    cells = ad.read_h5ad(workshop / "screen.h5ad")[:, ::-1].copy()
    cells.obs["context"] = cells.obs["context"].astype(str).str.replace("context", "line")
    labels = cells.obs["perturbation"].astype(str)
    cells.obs["perturbation"] = labels.str.replace(r"perturbation_([4-6])", r"novel_\1", regex=True)
    cells.write_h5ad(folder / "second.h5ad")
    (folder / "split.toml").write_text(SPLIT)
    command(
        *("prepare", folder / "second.h5ad", "--store", folder / "store", "--genes-of", folder / "old"),
        *("--perturbation-key", "perturbation", "--control", "control", "--context-key", "context"),
        *("--batch-key", "batch"),
    )
    return folder


@pytest.fixture(scope="module")
def finetune(second, command):
    """Finetune the old run on the second screen."""

    def run(out: Path, *arguments, code: int = 0) -> subprocess.CompletedProcess:
        given = ("--from", second / "old", "--data", second / "store", "--split", second / "split.toml")
        return command("finetune", *given, "--out", out, *SETTINGS, *arguments, code=code)

    return run


@pytest.mark.parametrize("recipe", ["full", "low_rank"])
def test_a_finetuned_run_goes_on_predicts_and_is_exported_like_any_other(tmp_path, second, finetune, command, recipe):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    given = ("--recipe", recipe, "training.average_decay=0.9", "training.keep_checkpoints=9")
    told = finetune(whole, *given).stderr
    assert "knows 2 contexts and 6 perturbations; 2 and 3 are new" in told
    record = json.loads((whole / "run.json").read_text())
    assert record["vocabulary"]["contexts"] == ["context_1", "context_2", "line_1", "line_2"]
    assert set(record["trained"]) == {"context_1", "context_2", "line_1", "line_2"}

    # As if it had been killed after step 4.
    shutil.copytree(whole, parts)
    (parts / "best.json").unlink()
    for step in (6, 8, 12):
        shutil.rmtree(parts / "checkpoints" / f"step={step}")
    assert "going on from step=4" in finetune(parts, *given).stderr
    assert saved_weights(parts) == saved_weights(whole)
    assert all(len(set(values)) == 1 for values in logged(parts).values())
    assert len(logged(parts)[12]) == 2

    refused = finetune(parts, *given, "tuning.freeze_encoder=true", code=2)
    assert "was started with another tuning" in refused.stderr
    command(
        *("predict", "--checkpoint", whole, "--controls", second / "second.h5ad", "--like", second / "second.h5ad"),
        *("--out", tmp_path / "p.h5ad"),
    )
    predicted = ad.read_h5ad(tmp_path / "p.h5ad")
    assert set(predicted.obs["perturbation"]) == {"perturbation_2", "novel_4"}
    command("export", whole, "--out", tmp_path / "exported")
    command("import", tmp_path / "exported", "--out", tmp_path / "again")
    command(
        *("predict", "--checkpoint", tmp_path / "again", "--controls", second / "second.h5ad"),
        *("--like", second / "second.h5ad", "--out", tmp_path / "q.h5ad"),
    )
    assert abs(ad.read_h5ad(tmp_path / "q.h5ad").X - predicted.X).max() < 1e-4


def test_processes_that_share_the_weights_or_the_sequence_train_adapters_as_one(tmp_path, finetune):
    first = ("--recipe", "low_rank", "training.checkpoint_every=1", "training.keep_checkpoints=12")
    finetune(tmp_path / "one", *first)
    expected, losses = gradients(tmp_path / "one", 1), logged(tmp_path / "one")
    assert any("adapters" in name for name in expected)
    for name, sequence in (("tensor", "false"), ("sequence", "true")):
        more = tmp_path / name
        finetune(
            *(more, *first, "compute.devices=2", "compute.tensor_parallel=2", f"compute.sequence_parallel={sequence}")
        )
        found = gradients(more, 1)
        assert found.keys() == expected.keys()
        for part, gradient in expected.items():
            assert (found[part] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-12, (name, part)
        for step, (loss,) in losses.items():
            assert logged(more)[step][0] == pytest.approx(loss, rel=1e-4), (name, step)


def test_under_torchrun_the_processes_share_the_weights_they_start_from(tmp_path, second, environment):
    out = tmp_path / "run"
    done = subprocess.run(
        [
            *("nemo", "scale", "finetune", "--factory", "full", f"start={second / 'old'}", f"store={second / 'store'}"),
            *(f"split={second / 'split.toml'}", f"out={out}", *SETTINGS, "training.sets_per_batch=2"),
            *("tuning.network_share=0.5", "executor=torchrun", "executor.ntasks_per_node=2", "--yes"),
        ],
        env={**environment, "NEMORUN_HOME": str(tmp_path / "nemo_run")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert np.frombuffer(saved_weights(out)["network_share"], np.float32) == 0.5
    assert (out / "checkpoints" / "step=12").is_dir()
    assert json.loads((out / "run.json").read_text())["compute"]["devices"] == 2


def test_a_job_that_fails_ends_with_its_sentence_and_a_code(tmp_path, second, environment):
    done = subprocess.run(
        [
            *("nemo", "scale", "pretrain", "--factory", "scale_tiny", f"store={tmp_path / 'absent'}"),
            *(f"split={second / 'split.toml'}", f"out={tmp_path / 'run'}", "executor=local", "--yes"),
        ],
        env={**environment, "NEMORUN_HOME": str(tmp_path / "nemo_run")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert "error: There is no store at" in done.stdout + done.stderr
    assert "did not end well" in done.stderr


def test_throughput_is_measured_on_a_screen_made_for_it(tmp_path, environment):
    done = subprocess.run(
        [
            *("nemo", "scale", "throughput", "--factory", "scale_tiny", f"out={tmp_path / 'timed'}", "steps=8"),
            *("warm_up=2", "screen.cells=2000", "screen.genes=60", "screen.contexts=2", "screen.perturbations=3"),
            *("training.sets_per_batch=2", "training.cells_per_set=8", "--yes"),
        ],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "timed" / "throughput.json").read_text())
    assert found["steps"] == 8
    assert 0 < found["distinct_perturbed_cells"] <= 8 * 2 * 8
    assert found["cells_per_second"] == pytest.approx(found["distinct_perturbed_cells"] / found["seconds"])
    assert found["step_seconds"]["p5"] <= found["step_seconds"]["p50"] <= found["step_seconds"]["p99"]
    assert 0 <= found["data_wait"] < 1
    assert found["data"]["genes"] == 60


def commands_of(readme: Path) -> list[str]:
    """The blocks of commands of a README."""
    return re.findall(r"```bash\n(.*?)```", readme.read_text(), flags=re.DOTALL)


def in_shell(block: str, folder: Path, environment: dict[str, str], **more: str) -> None:
    for name in ("recipes", "experiments"):
        (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        ["bash", "-euc", block],
        cwd=folder,
        env={**environment, **more},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_recipe_on_simulated_screens(tmp_path, environment):
    in_shell(commands_of(RECIPE / "README.md")[0], tmp_path, environment, PRETRAIN_STEPS="40", STEPS="30")
    metrics = json.loads((tmp_path / "tuned" / "report" / "metrics.json").read_text())
    assert {"full", "low_rank", "scratch"} <= set(metrics["arms"])
    assert sum(len(labels) for labels in metrics["settings"]["scored"].values()) == 7


def test_the_recipe_on_a_real_screen(tmp_path, environment):
    screen = FOLDER / "papalexi_lowmoi_sceptre.h5ad"
    if not screen.exists():
        pytest.skip(f"{screen} is not there: name its folder in SCALE_SCREENS")
    (tmp_path / "papalexi.h5ad").symlink_to(screen)
    # Without the linear start, which no step of training changes: an untrained model then predicts the control cells.
    block = re.sub(r"max_steps=\d+", "max_steps=60", commands_of(RECIPE / "README.md")[1])
    block = re.sub(r"(bionemo-scale pretrain .*)", r"\1 model.start=none model.evidence=off", block)
    in_shell(block, tmp_path, environment)
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    scores = {name: metrics["arms"][name]["metrics"]["PDCorr"] for name in ("full", "scratch", "control cells")}
    assert scores["full"] > scores["control cells"] + 0.05


def test_a_finetuning_may_compile_its_blocks(tmp_path, finetune):
    losses = {}
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        finetune(
            out,
            "--recipe",
            "low_rank",
            "training.max_steps=2",
            "training.warmup_steps=1",
            f"compute.compile={compiled}",
        )
        losses[compiled] = [values[-1] for _, values in sorted(logged(out).items())]
    assert losses["true"] == pytest.approx(losses["false"], rel=1e-4)
