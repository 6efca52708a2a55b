"""Tensor, sequence and data parallel training on CPU processes is the training of one."""

import shutil
from functools import cache

import anndata as ad
import numpy as np
import pytest
from jobs import gradients, logged, saved_weights

STEPS = range(4, 7)
EVIDENCE = "model.evidence=on"
SETTINGS = (
    EVIDENCE,
    "training.validate_every=3",
    "training.checkpoint_every=1",
    "training.keep_checkpoints=9",
)
TENSOR = ("compute.devices=2", "compute.tensor_parallel=2")
DATA = ("compute.devices=2", "training.sets_per_batch=2")
FOUR = ("compute.devices=4", "compute.tensor_parallel=2", "training.sets_per_batch=2")
SEQUENCE = "compute.sequence_parallel=true"
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory, pretrain):
    """A run of three steps, to go on from: by then no weight is at the zero where it may have started."""
    out = tmp_path_factory.mktemp("parallel") / "shared"
    pretrain(out, "training.max_steps=3", *SETTINGS)
    return out


@pytest.fixture(scope="module")
def gone_on(shared, pretrain):
    """The run of the next three steps with other settings; each once."""

    @cache
    def run(*overrides):
        out = shared.with_name("-".join(overrides) or "one process")
        shutil.copytree(shared, out)
        pretrain(out, "training.max_steps=6", *SETTINGS, *overrides)
        return out

    return run


def losses(run):
    logs = logged(run)
    return [logs[step][-1] for step in STEPS]


@pytest.mark.parametrize(
    "processes",
    [
        pytest.param(TENSOR, id="tensor"),
        pytest.param(DATA, id="data"),
        pytest.param(FOUR, id="tensor x data", marks=slow),
        pytest.param((*TENSOR, SEQUENCE), id="sequence", marks=slow),
        pytest.param((*FOUR, SEQUENCE), id="sequence x data", marks=slow),
    ],
)
def test_more_processes_have_the_losses_weights_and_every_gradient_of_one(shared, gone_on, processes):
    one, more = gone_on(), gone_on(*processes)
    assert losses(more) == pytest.approx(losses(one), rel=1e-5)
    expected, found = (gradients(run, 4, before=shared) for run in (one, more))
    assert found.keys() == expected.keys()
    assert len(found) > 40
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    weights = [saved_weights(run) for run in (more, one)]
    for name in weights[0]:
        np.testing.assert_allclose(*(np.frombuffer(w[name], np.float32) for w in weights), atol=2e-5, err_msg=name)


@slow
def test_a_sequence_parallel_run_predicts_as_that_of_one_process(gone_on, workshop, command):
    means = []
    for run in (gone_on(), gone_on(*TENSOR, SEQUENCE)):
        out = run / "predicted.h5ad"
        given = ("--controls", workshop / "screen.h5ad", "--like", workshop / "screen.h5ad")
        command("predict", "--checkpoint", run / "checkpoints" / "step=6", *given, "--out", out)
        means.append(ad.read_h5ad(out).X.toarray().mean(0))
    np.testing.assert_allclose(means[1], means[0], rtol=1e-3, atol=1e-4)


@slow
def test_a_checkpoint_of_four_processes_goes_on_as_one(shared, pretrain):
    """Weights and optimizer state from TP2 x DP2 back to a single process."""
    found = []
    for name, processes in (("by four", FOUR), ("by one", ())):
        run = shared.with_name(name)
        shutil.copytree(shared, run)
        pretrain(run, EVIDENCE, "training.max_steps=5", "training.validate_every=3", *processes)
        pretrain(run, EVIDENCE, "training.max_steps=7", "training.validate_every=3")
        found.append([logged(run)[step][-1] for step in (6, 7)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@slow
def test_a_step_of_two_batches_has_the_mean_of_their_gradients(tmp_path, pretrain):
    still = ("training.sets_per_batch=2", "training.learning_rate=0", "training.warmup_steps=0", *SETTINGS)
    still = (*still, "training.clip_gradient=1e9")
    pretrain(tmp_path / "apart", "training.max_steps=2", *still)
    pretrain(tmp_path / "together", "training.max_steps=1", "training.accumulate=2", *still)
    apart = gradients(tmp_path / "apart", 1), gradients(tmp_path / "apart", 2, before=tmp_path / "apart")
    together = gradients(tmp_path / "together", 1)
    for name, gradient in together.items():
        mean = (apart[0][name] + apart[1][name]) / 2
        assert (gradient - mean).norm() <= 1e-4 * mean.norm(), name


@slow
def test_activations_that_are_computed_again_change_nothing(gone_on):
    assert losses(gone_on("compute.recompute=true")) == losses(gone_on())


def test_a_tensor_parallel_size_that_does_not_divide_the_processes_is_refused(tmp_path, pretrain):
    done = pretrain(tmp_path / "run", "training.max_steps=3", "compute.tensor_parallel=2", code=2)
    assert "compute.tensor_parallel=2 does not divide" in done.stderr
    assert not (tmp_path / "run").exists()
