"""A model's weights on disk."""

import shutil

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.runs.load import load_model
from bionemo.scale.runs.sealed_json import read_sealed, write_sealed
from bionemo.screens.errors import InputError

CPU = torch.device("cpu")


def tensors(model) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if value is not None}


def test_the_sharded_state_covers_the_state(build):
    model = build()
    # A SwiGLU weight is two tensors in one, each split over ranks: Megatron makes it a factory of both.
    kinds = (ShardedTensor, ShardedTensorFactory)
    sharded = {name: part for name, part in model.sharded_state_dict().items() if isinstance(part, kinds)}
    state = tensors(model)
    assert set(sharded) == set(state)
    for name, part in sharded.items():
        if isinstance(part, ShardedTensor):
            assert part.global_shape == tuple(state[name].shape), name
        else:
            assert part.data.shape == state[name].shape, name
    # Two parameters under one key would overwrite each other on disk.
    assert len({part.key for part in sharded.values()}) == len(sharded)


def test_weights_survive_the_disk_bit_by_bit(build, save_weights, tmp_path):
    saved, other = build(), build(seed=1)
    save_weights(saved, tmp_path / "weights")
    loaded = dist_checkpointing.load(
        {"state_dict": other.sharded_state_dict(prefix="module.")}, str(tmp_path / "weights")
    )
    other.load_state_dict({name.removeprefix("module."): value for name, value in loaded["state_dict"].items()})
    for name, value in tensors(saved).items():
        assert torch.equal(tensors(other)[name], value), name


def test_a_run_gives_back_its_model(build, sets, run_path):
    model, step = load_model(RunDirectory(run_path), CPU)
    assert step == 1
    assert not model.training
    batch = sets(6, 4)
    arguments = batch["control"], batch["mask"], batch["condition"], batch["key"]
    assert torch.equal(model.predict(*arguments), build().predict(*arguments))


def test_a_run_without_a_checkpoint_is_refused(groups, record, tmp_path):
    RunDirectory(tmp_path).start(record, write=True)
    with pytest.raises(InputError, match="has no checkpoint yet"):
        load_model(RunDirectory(tmp_path), CPU)


@pytest.mark.parametrize("name", ["weights/__0_0.distcp", "weights/.metadata", "weights/common.pt", "checksums.json"])
@pytest.mark.parametrize("place", [0, 0.5, 0.999])
def test_a_flipped_bit_of_a_checkpoint_is_refused(run_path, groups, tmp_path, name, place):
    checkpoint = shutil.copytree(run_path, tmp_path / "run") / "checkpoints" / "step=1"
    content = bytearray((checkpoint / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (checkpoint / name).write_bytes(content)
    with pytest.raises(InputError, match=r"restore it from a copy|does not belong to the run\.json"):
        load_model(RunDirectory(tmp_path / "run"), CPU)


def test_a_checkpoint_goes_with_one_record(run_path, record, groups, tmp_path):
    """Nothing in the weights tells which conditions they have seen."""
    shutil.copytree(run_path, tmp_path / "run")
    changed, _ = read_sealed(tmp_path / "run" / "run.json")
    changed["split"]["fewshot"] = {"B": {"val": [], "test": ["MYC"]}}
    write_sealed(tmp_path / "run" / "run.json", changed)
    with pytest.raises(InputError, match=r"step=1 does not belong to the run\.json beside it"):
        load_model(RunDirectory(tmp_path / "run"), CPU)


def test_how_it_is_computed_and_how_long_may_be_said_otherwise(run_path, record, groups, tmp_path):
    shutil.copytree(run_path, tmp_path / "run")
    changed, _ = read_sealed(tmp_path / "run" / "run.json")
    changed["training"]["max_steps"], changed["store"]["path"] = 1_000, "elsewhere"
    write_sealed(tmp_path / "run" / "run.json", changed)
    assert load_model(RunDirectory(tmp_path / "run"), CPU)[1] == 1
