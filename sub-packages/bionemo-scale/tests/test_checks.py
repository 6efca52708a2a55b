"""Settings that do not fit each other, the chip or the data."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.environment import name_an_architecture
from bionemo.scale.training import checks as refusals
from bionemo.scale.training import setup
from bionemo.scale.training.checks import check_data, check_settings
from bionemo.screens.errors import InputError


@pytest.fixture
def training() -> TrainingConfig:
    return TrainingConfig(max_steps=100, sets_per_batch=4, cells_per_set=8)


@pytest.fixture
def bf16() -> ComputeConfig:
    return ComputeConfig(precision="bf16")


@pytest.fixture
def wide(config):
    """A model whose widths FP8 takes."""
    return replace(config, hidden_size=64, gene_module_size=32, ffn_hidden_size=128)


@pytest.fixture
def chip(monkeypatch):
    """Pretend to be on a GPU of that compute capability, with Transformer Engine."""

    def make(*capability: int) -> None:
        monkeypatch.setattr(refusals, "transformer_engine_works", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")

    return make


def test_tasks_that_slurm_started_in_another_number_are_refused(config, bf16, training, monkeypatch):
    for name, value in {"SLURM_NTASKS": "16", "SLURM_JOB_NAME": "scale", "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    check_settings(config, replace(bf16, devices=8, nodes=2), training)
    with pytest.raises(InputError, match=r"starts 16 tasks, and compute\.devices=8 x compute\.nodes=1 asks for 8: set"):
        check_settings(config, replace(bf16, devices=8), training)
    monkeypatch.setenv("SLURM_JOB_NAME", "my-interactive")
    with pytest.raises(InputError, match=r"does not use the 16 tasks .*'my-interactive': give it another --job-name"):
        check_settings(config, replace(bf16, devices=8, nodes=2), training)


def test_weights_and_biases_without_its_package_is_refused(config, bf16, training, monkeypatch):
    monkeypatch.setattr(refusals.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="wandb_project=screens needs the package wandb: pip install wandb"):
        check_settings(config, bf16, replace(training, wandb_project="screens"))


def test_sets_that_sequence_parallelism_does_not_divide_are_refused_with_sizes_that_would(config, bf16, training):
    split = replace(bf16, devices=2, tensor_parallel=2, sequence_parallel=True)
    check_settings(config, split, training)
    with pytest.raises(
        InputError, match=r"cells_per_set=7 to be a multiple of compute\.tensor_parallel=2: 6 or 8 would do"
    ):
        check_settings(config, split, replace(training, cells_per_set=7))


def test_a_gpu_that_is_not_there_is_refused(config, training):
    with pytest.raises(InputError, match=r"compute\.device=cuda needs a GPU, and this machine shows none"):
        check_settings(config, ComputeConfig(device="cuda"), training)


@pytest.mark.parametrize(
    ("capability", "fp8", "changes", "message"),
    [
        ((9, 0), "delayed", {"precision": "fp32"}, r"goes with compute\.precision=bf16, not fp32"),
        ((8, 0), "delayed", {}, r"needs compute capability 8\.9, which a GPU has not: use compute\.fp8=none"),
        ((9, 0), "mxfp8", {}, r"needs compute capability 10\.0"),
        ((9, 0), "current", {"sets_per_batch": 1, "cells_per_set": 9}, r"is 9: 0 and 16 would do"),
        ((9, 0), "delayed", {"sets_per_batch": 1, "cells_per_set": 24}, r"is 24: 16 and 32 would do"),
        ((9, 0), "delayed", {"devices": 9}, r"devices=9 is more than the 8 GPUs"),
        ((10, 0), "mxfp8", {"cells_per_set": 9}, r"multiples of 32, and .* on each rank is 36: 32 and 64 would do"),
    ],
)
def test_fp8_that_cannot_run_is_refused(wide, bf16, training, chip, capability, fp8, changes, message):
    chip(*capability)
    sizes = {name: value for name, value in changes.items() if hasattr(training, name)}
    computed = {name: value for name, value in changes.items() if name not in sizes}
    with pytest.raises(InputError, match=message):
        check_settings(wide, replace(bf16, fp8=fp8, **computed), replace(training, **sizes))


@pytest.mark.parametrize("fp8", ["delayed", "current"])
def test_fp8_that_can_run_is_not(wide, bf16, training, chip, fp8):
    chip(9, 0)
    check_settings(wide, replace(bf16, fp8=fp8), training)


def test_fp8_with_keys_too_narrow_for_it_is_refused(wide, bf16, training, chip):
    chip(9, 0)
    narrow = replace(wide, num_attention_heads=16, num_query_groups=1)
    with pytest.raises(
        InputError, match=r"keys and values that goes with model\.hidden_size on each rank is 8: 0 and 16"
    ):
        check_settings(narrow, replace(bf16, fp8="current"), training)


def test_fp8_without_transformer_engine_is_refused(wide, bf16, training, monkeypatch):
    monkeypatch.setattr(refusals, "transformer_engine_works", lambda: False)
    with pytest.raises(InputError, match=r"fp8=delayed needs a GPU and a working transformer-engine"):
        check_settings(wide, replace(bf16, fp8="delayed"), training)
    with pytest.raises(
        InputError, match=r"fp8=delayed needs compute\.layer_spec=auto or transformer_engine, not local"
    ):
        check_settings(wide, replace(bf16, fp8="delayed", layer_spec="local"), training)


def test_fewer_sets_than_ranks_are_refused(training):
    runs = np.zeros(3, dtype=[("length", int)])
    runs["length"] = 8, 9, 100
    store = SimpleNamespace(runs=runs, path="store")
    eligible = np.array([True, True, False])
    check_data(store, eligible, training, data_parallel=3)
    with pytest.raises(InputError, match="has 3 sets of 8 cells to train on, fewer than the 4 data-parallel ranks"):
        check_data(store, eligible, training, data_parallel=4)


def test_ranks_that_would_wait_for_others_in_vain_are_refused(config, training, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match=r"LOCAL_RANK=1 says .* MASTER_ADDR is not set: unset LOCAL_RANK"):
        check_settings(config, ComputeConfig(), training)
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "1234", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"torchrun has started 2 processes, .* asks for 1: set them to"):
        check_settings(config, ComputeConfig(), training)
    check_settings(config, ComputeConfig(devices=2), training)


def test_without_a_gpu_torch_is_told_what_to_compile_for(monkeypatch):
    """Else Megatron cannot be imported where the CUDA toolkit is: torch takes the last of no architectures."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    name_an_architecture()
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "9.0"
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    name_an_architecture()
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "8.0"


def test_a_process_that_is_alone_looks_for_no_others(config, training, monkeypatch):
    for name, value in {"MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "99999999"}.items():
        monkeypatch.setenv(name, value)
    check_settings(config, ComputeConfig(devices=2), training)
    assert os.environ["MASTER_ADDR"] == "nowhere.invalid"
    check_settings(config, ComputeConfig(), training)
    assert not {"MASTER_ADDR", "MASTER_PORT"} & os.environ.keys()


@pytest.mark.parametrize("name", ["NODE_RANK", "GROUP_RANK"])
def test_a_node_that_comes_after_the_last_is_refused(config, training, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    check_settings(config, ComputeConfig(nodes=2), training)
    with pytest.raises(InputError, match=rf"{name}=1 says .* and compute.nodes=1: unset it, or set compute.nodes"):
        check_settings(config, ComputeConfig(), training)


@pytest.mark.parametrize("able", [True, False])
def test_bf16_on_a_cpu_without_instructions_for_it_is_warned_of(bf16, training, monkeypatch, caplog, able):
    for name in ("redirect_cuda_to_cpu", "keep_freed_memory", "collect_write_results_here"):
        monkeypatch.setattr(setup, name, lambda: None)
    monkeypatch.setattr(setup, "use_threads", lambda threads: None)
    monkeypatch.setattr(setup, "cpu_multiplies_bf16", lambda: able)
    with caplog.at_level("WARNING", logger="bionemo.scale"):
        setup.set_up(replace(bf16, device="cpu"), training)
        setup.set_up(replace(bf16, device="cpu", precision="fp32"), training)
    assert caplog.text.count("use compute.precision=fp32 here") == (not able)
