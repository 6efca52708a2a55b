"""Where numbers stop being finite."""

from dataclasses import replace

import pytest
import torch

from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.training.callbacks.nan_watch import first_not_finite
from bionemo.scale.training.module import ScaleModule


@pytest.fixture
def module(build, config, compute, vocabulary) -> ScaleModule:
    training = TrainingConfig(max_steps=100, sets_per_batch=4, cells_per_set=8)
    module = ScaleModule(config, compute, vocabulary, {}, training)
    module.module = build()
    return module


@pytest.fixture
def batch(sets) -> TrainingBatch:
    return TrainingBatch(**sets(6, 4))


def test_nothing_is_named_where_all_is_finite(module, batch):
    assert first_not_finite(module, batch) is None


@pytest.mark.parametrize(
    "name",
    ["encoder.within_cell.join", "condition_encoder.key", "transport.blocks.block_2.mlp.linear_fc1"],
)
def test_the_first_module_whose_output_is_not_finite_is_named(module, batch, name):
    with torch.no_grad():
        module.module.get_submodule(name).weight[0] = torch.inf
    assert first_not_finite(module, batch) == name
    assert not any(part._forward_hooks for part in module.module.modules())


def test_a_loss_that_overflows_by_itself_is_named(module, batch):
    # Every module's output is finite, and the square of an error is not.
    assert first_not_finite(module, replace(batch, perturbed=torch.full_like(batch.perturbed, 1e20))) == "the losses"
