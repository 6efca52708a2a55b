"""Tensor and data parallel training on two CPU processes is the training of one."""

import shutil

import pytest
from jobs import logged

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


def test_a_tensor_parallel_size_that_does_not_divide_the_processes_is_refused(tmp_path, pretrain):
    done = pretrain(tmp_path / "run", "training.max_steps=3", "model.tensor_parallel=2", code=2)
    assert "model.tensor_parallel=2 does not divide" in done.stderr
    assert not (tmp_path / "run").exists()
