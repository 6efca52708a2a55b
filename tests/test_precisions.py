"""A run that began in one precision goes on in the other, and is used like any other."""

import json
import shutil

import pytest
from jobs import gradients, logged, saved_weights

STEPS = range(4, 7)
# Optimal transport chooses pairs, and rounding may choose others: then a gradient is another.
SETTINGS = (
    *("training.validate_every=100", "training.checkpoint_every=1", "training.keep_checkpoints=9"),
    "model.pairing=none",
)
AVERAGE = "training.average_decay=0.9"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pretrain):
    """Six steps in either precision, every one of them kept."""
    folder = tmp_path_factory.mktemp("precisions")
    for precision in ("fp32", "bf16"):
        pretrain(folder / precision, "training.max_steps=6", f"compute.precision={precision}", AVERAGE, *SETTINGS)
    return folder


@pytest.mark.parametrize(("before", "after"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_run_goes_on_in_the_other_precision(whole, tmp_path, pretrain, command, before, after):
    run = tmp_path / "run"
    shutil.copytree(whole / before, run)
    for step in STEPS:
        shutil.rmtree(run / "checkpoints" / f"step={step}")
    told = pretrain(run, "training.max_steps=6", f"compute.precision={after}", AVERAGE, *SETTINGS).stderr
    assert told.count(f"step=3 was written in {before} and goes on in {after}") == 1
    losses, expected = logged(run), logged(whole / before)
    for step in STEPS:
        assert losses[step][-1] == pytest.approx(expected[step][0], rel=2e-3)
        assert losses[step][-1] != expected[step][0], "nothing was computed in another precision"
    # The optimizer's moments went along: without them this would not be the step's gradient.
    found, meant = gradients(run, 4, before=whole / before), gradients(whole / before, 4, before=whole / before)
    assert found.keys() == meant.keys()
    for name, gradient in meant.items():
        assert (found[name] - gradient).norm() <= 0.1 * gradient.norm(), name

    command("export", run, "--out", tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["compute"]["precision"] == after


def test_weights_come_back_to_the_bit_from_bf16(tmp_path, pretrain):
    run, still = tmp_path / "run", ("training.learning_rate=0", "training.weight_decay=0", *SETTINGS)
    pretrain(run, "training.max_steps=3", *still)
    before = saved_weights(run)
    pretrain(run, "training.max_steps=4", "compute.precision=bf16", *still)
    assert "step=4 was written in bf16 and goes on in fp32" in pretrain(run, "training.max_steps=5", *still).stderr
    after = saved_weights(run)
    # Buffers that follow from the data stay bf16's.
    differing = {name for name in before if after[name] != before[name]}
    assert differing <= {"gene_mean"} | {name for name in before if name.startswith("linear_start.")}


@pytest.mark.parametrize(("before", "after"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_run_is_finetuned_in_the_other_precision(whole, workshop, tmp_path, command, before, after):
    run = tmp_path / "tuned"
    command(
        *("finetune", "--from", whole / before, "--data", workshop / "store", "--split", workshop / "split.toml"),
        *("--out", run, "training.max_steps=3", "training.warmup_steps=0", "training.learning_rate=1e-5"),
        *("training.sets_per_batch=4", "training.cells_per_set=16", "training.log_every=1"),
        f"compute.precision={after}",
    )
    # From the weights of the run, and not from new ones.
    assert logged(run)[1][0] < min(logged(whole / before)[step][0] for step in (1, 2))
