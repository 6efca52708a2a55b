"""Checkpoints of bf16 and of float32 runs, read as the other."""

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import LocalNonpersistentObject, ShardedTensor
from nemo.lightning.io import pl as nemo_checkpoints

from bionemo.scale.runs.writing import writing_without_cuda
from bionemo.scale.training.checkpoint_io import AnyPrecision
from bionemo.screens.errors import InputError

NAMES = ("module.moving.weight", "module.frozen.weight")


def sharded(name: str, values: torch.Tensor) -> ShardedTensor:
    return ShardedTensor.from_rank_offsets(name, values, replica_id=0)


def plain(moment: torch.Tensor) -> dict:
    """The state of Megatron's optimizer for float32 weights, as it is written and asked for."""
    return {
        "state": {0: {"exp_avg": sharded(f"optimizer.state.exp_avg.{NAMES[0]}", moment)}, "common_step": 7.0},
        "param_groups": [{"lr": 0.5, "params": LocalNonpersistentObject([0])}],
    }


def mixed(moment: torch.Tensor, master: torch.Tensor) -> dict:
    """That for bf16 weights."""
    masters = [[sharded(f"optimizer.state.fp32_param.{NAMES[0]}", master)]]
    return {"optimizer": plain(moment), "fp32_from_fp16_params": masters}


@pytest.fixture
def moved(groups, tmp_path, monkeypatch):
    """Write a checkpoint and read it as another."""
    monkeypatch.setattr(nemo_checkpoints, "_fix_tensors_device", lambda checkpoint: checkpoint)

    def move(weights: dict[str, torch.Tensor], optimizer: dict, into: torch.dtype, asked: dict, written=None) -> dict:
        folder = tmp_path / "step=7"
        (folder / "weights").mkdir(parents=True)
        state = {name: sharded(name, values) for name, values in weights.items()}
        with writing_without_cuda():
            whole = {"state_dict": state, "optimizer": [optimizer]}
            dist_checkpointing.save(whole, str(folder / "weights"), content_metadata=written)
        empty = {name: sharded(name, torch.zeros_like(values, dtype=into)) for name, values in weights.items()}
        return AnyPrecision().load_checkpoint(folder, {"state_dict": empty, "optimizer": [asked]})

    return move


@pytest.fixture
def values() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 3, generator=generator) for _ in range(3)]


def test_float32_weights_become_masters_to_the_bit(moved, values):
    moving, frozen, moment = values
    asked = mixed(torch.zeros(5, 3), torch.zeros(5, 3))
    found = moved(dict(zip(NAMES, (moving, frozen), strict=True)), plain(moment), torch.bfloat16, asked)
    for name, expected in zip(NAMES, (moving, frozen), strict=True):
        assert torch.equal(found["state_dict"][name], expected.bfloat16())
    (state,) = found["optimizer"]
    assert torch.equal(state["fp32_from_fp16_params"][0][0], moving)
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], moment)
    assert state["optimizer"]["state"]["common_step"] == 7.0
    assert state["optimizer"]["param_groups"] == [{"lr": 0.5, "params": [0]}]


def test_the_optimizer_of_a_gpu_does_not_go_on_on_a_cpu(moved, values):
    gpu = {"distrib_optim_sharding_type": "fully_reshardable"}
    weights = dict(zip(NAMES, values[:2], strict=True))
    with pytest.raises(InputError, match="step=7 was trained on a GPU, where the optimizer keeps its state otherwise"):
        moved(weights, plain(values[2]), torch.float32, plain(torch.zeros(5, 3)), gpu)


def test_masters_become_float32_weights_and_weights_without_one_are_read_as_they_are(moved, values):
    moving, frozen, moment = values
    written = dict(zip(NAMES, (moving.bfloat16(), frozen.bfloat16()), strict=True))
    found = moved(written, mixed(moment, moving), torch.float32, plain(torch.zeros(5, 3)))
    assert torch.equal(found["state_dict"][NAMES[0]], moving)
    assert torch.equal(found["state_dict"][NAMES[1]], frozen.bfloat16().float())
    (state,) = found["optimizer"]
    assert state.keys() == {"state", "param_groups"}
    assert torch.equal(state["state"][0]["exp_avg"], moment)
    assert state["state"]["common_step"] == 7.0
