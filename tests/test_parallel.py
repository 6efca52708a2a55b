"""Tensor and data parallel training on two CPU processes is the training of one."""

import shutil

import numpy as np
import pytest
from jobs import logged, saved_weights

STEPS = range(4, 7)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, pretrain):
    """A run of three steps, to go on from."""
    out = tmp_path_factory.mktemp("parallel") / "shared"
    pretrain(out, "training.max_steps=3", "training.validate_every=3")
    return out


@pytest.fixture(scope="module")
def one_process(shared, pretrain):
    """Losses of the next three steps on one process."""
    return losses(shared, "one", pretrain)


def losses(shared, name, pretrain, *overrides):
    out = shared.with_name(name)
    shutil.copytree(shared, out)
    pretrain(out, "training.max_steps=6", "training.validate_every=3", *overrides)
    logs = logged(out)
    return [logs[step][-1] for step in STEPS]


def test_tensor_parallel_2_has_the_losses_of_one_process(shared, one_process, pretrain):
    found = losses(shared, "tensor", pretrain, "training.devices=2", "model.tensor_parallel=2")
    assert found == pytest.approx(one_process, rel=1e-5)


def test_data_parallel_2_has_the_losses_of_one_process(shared, one_process, pretrain):
    found = losses(shared, "data", pretrain, "training.devices=2", "training.sets_per_batch=2")
    assert found == pytest.approx(one_process, rel=1e-5)


@pytest.mark.slow
def test_tensor_parallel_2_times_data_parallel_2_has_the_losses_and_weights_of_one_process(
    shared, one_process, pretrain
):
    four = ("training.devices=4", "model.tensor_parallel=2", "training.sets_per_batch=2")
    assert losses(shared, "four", pretrain, *four) == pytest.approx(one_process, rel=1e-5)
    # Three optimizer steps on: the gradients agreed as well, and so do their norms.
    norms = [logged(shared.with_name(name), "train/gradient_norm") for name in ("one", "four")]
    assert [norms[1][step][-1] for step in STEPS] == pytest.approx([norms[0][step][-1] for step in STEPS], rel=1e-4)
    one, found = (saved_weights(shared.with_name(name)) for name in ("one", "four"))
    for name in one:
        np.testing.assert_allclose(*(np.frombuffer(w[name], np.float32) for w in (found, one)), atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_a_checkpoint_of_four_processes_goes_on_as_one(shared, pretrain):
    """Weights and optimizer state from TP2 x DP2 back to a single process."""
    four = ("training.devices=4", "model.tensor_parallel=2", "training.sets_per_batch=2")
    found = []
    for name, processes in (("by four", four), ("by one", ())):
        run = shared.with_name(name)
        shutil.copytree(shared, run)
        pretrain(run, "training.max_steps=5", "training.validate_every=3", *processes)
        pretrain(run, "training.max_steps=7", "training.validate_every=3")
        found.append([logged(run)[step][-1] for step in (6, 7)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.slow
def test_activations_that_are_computed_again_change_nothing(shared, one_process, pretrain):
    assert losses(shared, "recompute", pretrain, "model.recompute=true") == one_process


def test_a_tensor_parallel_size_that_does_not_divide_the_processes_is_refused(tmp_path, pretrain):
    done = pretrain(tmp_path / "run", "training.max_steps=3", "model.tensor_parallel=2", code=2)
    assert "model.tensor_parallel=2 does not divide" in done.stderr
    assert not (tmp_path / "run").exists()
