"""Settings that cannot work are refused where they are made, by name."""

import json
from dataclasses import asdict, replace

import pytest

from bionemo.scale.config.agreement import check_agreement
from bionemo.scale.config.compute import ComputeConfig, Device, Precision
from bionemo.scale.config.model import ModelConfig, Source
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.layers.specs import layer_spec
from bionemo.screens.errors import InputError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_query_groups": 3}, "num_query_groups=3 does not divide num_attention_heads=4"),
        ({"hidden_size": 18}, "num_attention_heads=4 does not divide hidden_size=18"),
        ({"gene_module_size": 6}, "num_attention_heads=4 does not divide gene_module_size=6"),
        ({"source_control_share": 1.5}, "source_control_share=1.5 is outside"),
        ({"start_fraction": -0.1}, "start_fraction=-0.1 must be a number of 0 or more"),
        ({"context_dropout": 2}, "context_dropout=2 is outside"),
        ({"solver_steps": 0}, "solver_steps=0 must be at least 1"),
        ({"gene_modules": 0}, "gene_modules=0 must be at least 1"),
        ({"source": "noise"}, "source='noise' is not one of control, gaussian, mixed"),
        ({"pairing": "best"}, "pairing='best' is not one of none, optimal_transport"),
        ({"head": "both"}, "head='both' is not one of residual, regression, negative_binomial"),
        ({"head": "negative_binomial"}, "set_loss=energy needs .* set set_loss=none"),
        ({"head": "regression", "start": "linear"}, "start=linear .* set start=none"),
        ({"start": "linear", "network_share": 1.5}, "network_share=1.5 is outside"),
        ({"network_share": 0.5}, "without start=linear"),
        ({"gene_dropout": 1.1}, "gene_dropout=1.1 is outside"),
        ({"set_loss": "kl"}, "set_loss='kl' is not one of none, energy, mmd"),
        ({"prediction": "noise"}, "prediction='noise' is not one of endpoint, velocity"),
        ({"condition_pooling": "max"}, "condition_pooling='max' is not one of seed_attention, mean"),
        ({"perturbation_tokens": "all"}, "perturbation_tokens='all' is not one of learned, embedding, both"),
        *(
            ({name: 0}, f"{name}=0 must be at least 1")
            for name in ("num_attention_heads", "num_query_groups", "hidden_size", "ffn_hidden_size", "encoder_layers")
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_model_that_cannot_be_built_is_refused(config, changes, message):
    with pytest.raises(InputError, match=message):
        replace(config, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "max_steps=0 must be at least 1"),
        ({"sets_per_batch": 0}, "sets_per_batch=0 must be at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every=0 must be at least 1"),
        ({"warmup_steps": 100}, "warmup_steps=100 leaves nothing of max_steps=100"),
        ({"average_decay": 1.0}, "average_decay=1.0 must be below 1"),
        ({"patience": -1}, "patience=-1 must be at least 0"),
        ({"controls": "share"}, "controls='share' is not one of independent, shared"),
        ({"control_rotation": 3}, "rotation of control cells in training must be 0, 1 or 2, not 3"),
    ],
)
def test_training_that_cannot_run_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**{"max_steps": 100, "sets_per_batch": 4, "cells_per_set": 8, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "gpu"}, "device='gpu' is not one of auto, cpu, cuda"),
        ({"layer_spec": "te"}, "layer_spec='te' is not one of"),
        ({"precision": "fp8"}, "precision='fp8' is not one of fp32, bf16"),
        ({"matmul_precision": "low"}, "matmul_precision='low' is not one of highest, high, medium"),
        ({"fp8": "e4m3"}, "fp8='e4m3' is not one of none, delayed, current, mxfp8"),
        ({"fp8": "delayed", "recompute": True}, "recompute and fp8=delayed do not go together"),
        ({"sequence_parallel": True}, "tensor_parallel is 1: raise it"),
        ({"threads": 0}, "threads=0 must be at least 1"),
    ],
)
def test_a_way_to_compute_that_there_is_not_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        ComputeConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor_parallel": 3}, r"compute\.tensor_parallel=3 does not divide model\.num_attention_heads=4"),
        ({"tensor_parallel": 4}, r"compute\.tensor_parallel=4 does not divide model\.num_query_groups=2"),
        ({"tensor_parallel": 2, "devices": 3}, "does not divide the 3 processes .*: 1 would, or a multiple of 2 proc"),
        (
            {"sequence_parallel": True, "tensor_parallel": 2, "devices": 2},
            r"needs model\.gene_modules=5 to be a multiple of compute\.tensor_parallel=2: 4 or 6 would do",
        ),
        ({"fp8": "delayed"}, r"fp8=delayed goes with compute\.precision=bf16, not fp32"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(config, changes, message):
    training = TrainingConfig(max_steps=100, sets_per_batch=4, cells_per_set=8)
    with pytest.raises(InputError, match=message):
        check_agreement(replace(config, gene_modules=5), ComputeConfig(**changes), training)


def test_the_device_is_that_of_the_machine_unless_it_is_named(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert ComputeConfig().on_gpu is there
        assert ComputeConfig().resolved().device is (Device.CUDA if there else Device.CPU)
        assert not ComputeConfig(device="cpu").on_gpu
        assert ComputeConfig(device="cuda").resolved().device is Device.CUDA


def test_names_of_choices_become_choices(config):
    assert replace(config, source="gaussian").source is Source.GAUSSIAN
    assert ComputeConfig(precision="bf16").precision is Precision.BF16


def test_configurations_survive_json(config, compute, vocabulary):
    assert ComputeConfig(**json.loads(json.dumps(asdict(compute)))) == compute
    assert ModelConfig(**json.loads(json.dumps(asdict(config)))) == config
    assert Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))) == vocabulary


def test_transformer_engine_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr("bionemo.scale.layers.specs.transformer_engine_works", lambda: False)
    with pytest.raises(InputError, match="layer_spec=local"):
        layer_spec(ComputeConfig(layer_spec="transformer_engine"))
    assert layer_spec(ComputeConfig()) == layer_spec(ComputeConfig(layer_spec="local"))
