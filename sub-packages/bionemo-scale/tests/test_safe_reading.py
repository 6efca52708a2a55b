"""A checkpoint is data: whatever has been put into it, reading it runs nothing."""

import io
import json
import os
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex, TensorProperties

from bionemo.scale.runs.checksums import seal
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.runs.load import load_model
from bionemo.scale.runs.safe_reading import reading
from bionemo.screens.errors import InputError

CPU = torch.device("cpu")
Encoding = type(TensorProperties(memory_format=torch.contiguous_format).__getstate__()[3])


class Bomb:
    """Unpickled by an ordinary reader, makes a folder."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return os.mkdir, (str(self.where),)


@pytest.fixture
def weights(run_path, tmp_path):
    """A copy of the weights to spoil."""
    shutil.copytree(run_path, tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / "step=1" / "weights"


def in_metadata(weights, bomb):
    (weights / ".metadata").write_bytes(pickle.dumps(bomb))


def among_real_metadata(weights, bomb):
    metadata = pickle.loads((weights / ".metadata").read_bytes())
    metadata.planner_data = bomb
    (weights / ".metadata").write_bytes(pickle.dumps(metadata))


def in_common(weights, bomb):
    torch.save({"epoch": 0, "callbacks": bomb}, weights / "common.pt")


def in_common_as_a_plain_pickle(weights, bomb):
    (weights / "common.pt").write_bytes(pickle.dumps(bomb))


def in_the_place_of_a_tensor(weights, bomb):
    """The description says that a weight is an object, which Megatron's planner unpickles without asking."""
    file = next(weights.glob("*.distcp"))
    start, name = file.stat().st_size, "module.gene_mean"
    held = io.BytesIO()
    torch.save(bomb, held)
    with file.open("ab") as end:
        end.write(held.getvalue())
    metadata = pickle.loads((weights / ".metadata").read_bytes())
    index = next(i for i in metadata.storage_data if i.fqn == name)
    moved = replace(
        metadata.storage_data.pop(index), relative_path=file.name, offset=start, length=len(held.getvalue())
    )
    metadata.storage_data[MetadataIndex(name)] = moved
    metadata.state_dict_metadata[name] = BytesStorageMetadata()
    (weights / ".metadata").write_bytes(pickle.dumps(metadata))


def in_every_tensor(weights, bomb):
    for file in weights.glob("*.distcp"):
        file.write_bytes(pickle.dumps(bomb).ljust(file.stat().st_size, b"."))


@pytest.mark.parametrize(
    "put",
    [in_metadata, among_real_metadata, in_common],
)
def test_code_in_a_checkpoint_is_named_and_not_run(weights, record, groups, tmp_path, put, monkeypatch):
    # What the environment asks for must not open the door again.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    put(weights, Bomb(tmp_path / "ran"))
    seal(weights.parent, record)  # whoever puts code in can put the checksums right
    with pytest.raises(InputError, match=r"asks for posix\.mkdir to be run") as refused:
        load_model(RunDirectory(tmp_path / "run"), CPU)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_the_bombs_are_live(weights, tmp_path):
    in_metadata(weights, Bomb(tmp_path / "ran"))
    pickle.loads((weights / ".metadata").read_bytes())
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("put", [in_common_as_a_plain_pickle, in_the_place_of_a_tensor, in_every_tensor])
def test_a_pickle_instead_of_tensors_is_not_run(weights, record, groups, tmp_path, put):
    put(weights, Bomb(tmp_path / "ran"))
    seal(weights.parent, record)  # whoever puts code in can put the checksums right
    with pytest.raises(InputError, match=r"step=1 is damaged"):
        load_model(RunDirectory(tmp_path / "run"), CPU)
    assert not (tmp_path / "ran").exists()


def test_an_object_is_not_run_where_torch_would_unpickle_it(weights, record, tmp_path):
    torch.save(Bomb(tmp_path / "ran"), tmp_path / "object")
    with pytest.raises(InputError, match=r"asks for posix\.mkdir"), reading(weights.parent, record):
        torch.load(tmp_path / "object", weights_only=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "extra", ["modelopt_state", "context", "weights/modelopt_state", "weights/__0_0.pt", "weights/common.pkl"]
)
def test_files_that_nemo_would_unpickle_if_they_were_there_are_refused(weights, groups, tmp_path, extra):
    (weights.parent / extra).mkdir()
    with pytest.raises(InputError, match=f"holds {extra.split('/')[-1]}, which is no part of one"):
        load_model(RunDirectory(tmp_path / "run"), CPU)


def test_another_format_of_arrays_is_refused(weights, groups, tmp_path):
    stated = json.loads((weights / "metadata.json").read_text())
    (weights / "metadata.json").write_text(json.dumps({**stated, "sharded_backend": "zarr"}))
    with pytest.raises(InputError, match="is of format zarr, not torch_dist"):
        load_model(RunDirectory(tmp_path / "run"), CPU)


def taking(owner, name):
    """The pickle of ``getattr(owner, name)``."""
    return f"cbuiltins\ngetattr\n(c{owner.__module__}\n{owner.__name__}\nV{name}\ntR.".encode()


@pytest.mark.parametrize("member", list(Encoding), ids=str)
def test_members_of_enumerations_are_read_as_every_python_writes_them(weights, record, member):
    # As an attribute of the enumeration: Python 3.11.0 to 3.11.3.
    for pickled in (pickle.dumps(member), taking(Encoding, member.name)):
        with reading(weights.parent, record):
            assert pickle.loads(pickled) is member


@pytest.mark.parametrize(("owner", "name"), [(Encoding, "mro"), (Encoding, "OTHER"), (TensorProperties, "__init__")])
def test_no_other_attribute_is_taken(weights, record, owner, name):
    with pytest.raises(InputError, match=r"asks for builtins\.getattr"), reading(weights.parent, record):
        pickle.loads(taking(owner, name))


def test_other_code_gets_its_pickles_back(weights, record):
    before = pickle.load, pickle.loads, torch.load
    with reading(weights.parent, record):
        assert before != (pickle.load, pickle.loads, torch.load)
    with pytest.raises(InputError, match="damaged"), reading(weights.parent, record):
        raise ValueError("cut")
    assert before == (pickle.load, pickle.loads, torch.load)
