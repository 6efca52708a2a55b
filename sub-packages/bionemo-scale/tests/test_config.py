"""Settings that cannot work are refused where they are made, by name."""

import json
from dataclasses import replace

import pytest

from bionemo.scale.config.model import ScaleConfig, Source
from bionemo.scale.config.training import Precision, TrainingConfig
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.layers.specs import layer_spec
from bionemo.screens.errors import InputError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_query_groups": 3}, "num_query_groups=3 does not divide num_attention_heads=4"),
        ({"hidden_size": 18}, "num_attention_heads=4 does not divide hidden_size=18"),
        ({"gene_module_size": 6}, "num_attention_heads=4 does not divide gene_module_size=6"),
        ({"tensor_parallel": 3}, "tensor_parallel=3 does not divide num_attention_heads=4"),
        ({"tensor_parallel": 4}, "tensor_parallel=4 does not divide num_query_groups=2"),
        ({"sequence_parallel": True}, "tensor_parallel is 1: raise it"),
        (
            {"sequence_parallel": True, "tensor_parallel": 2, "gene_modules": 5},
            "gene_modules=5 to be a multiple of tensor_parallel=2: 4 or 6 would do",
        ),
        ({"source_control_share": 1.5}, "source_control_share=1.5 is outside"),
        ({"start_fraction": -0.1}, "start_fraction=-0.1 is outside"),
        ({"context_dropout": 2}, "context_dropout=2 is outside"),
        ({"solver_steps": 0}, "solver_steps=0 must be at least 1"),
        ({"gene_modules": 0}, "gene_modules=0 must be at least 1"),
        ({"source": "noise"}, "source='noise' is not one of control, gaussian, mixed"),
        ({"pairing": "best"}, "pairing='best' is not one of none, optimal_transport"),
        ({"head": "both"}, "head='both' is not one of residual, regression, negative_binomial"),
        ({"head": "negative_binomial"}, "set_loss=energy needs .* set set_loss=none"),
        ({"head": "regression", "transfer": True}, "transfer=true .* set transfer=false"),
        ({"transfer": True, "gate": 1.5}, "gate=1.5 is outside"),
        ({"gate": 0.5}, "without transfer=true"),
        ({"gene_dropout": 1.1}, "gene_dropout=1.1 is outside"),
        ({"set_loss": "kl"}, "set_loss='kl' is not one of none, energy, mmd"),
        ({"prediction": "noise"}, "prediction='noise' is not one of endpoint, velocity"),
        ({"condition_pooling": "max"}, "condition_pooling='max' is not one of seed_attention, mean"),
        ({"perturbation_tokens": "all"}, "perturbation_tokens='all' is not one of learned, embedding, both"),
        ({"layer_spec": "te"}, "layer_spec='te' is not one of"),
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
        ({"precision": "fp8"}, "precision='fp8' is not one of fp32, bf16"),
    ],
)
def test_training_that_cannot_run_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**{"max_steps": 100, "sets_per_batch": 4, "cells_per_set": 8, **changes})


def test_names_of_choices_become_choices(config):
    assert replace(config, source="gaussian").source is Source.GAUSSIAN
    training = TrainingConfig(max_steps=100, sets_per_batch=4, cells_per_set=8, precision="bf16")
    assert training.precision is Precision.BF16


def test_configurations_survive_json(config, vocabulary):
    assert ScaleConfig(**json.loads(json.dumps(config.to_dict()))) == config
    assert Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))) == vocabulary


def test_transformer_engine_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr("bionemo.scale.layers.specs.transformer_engine_works", lambda: False)
    with pytest.raises(InputError, match="layer_spec=local"):
        layer_spec("transformer_engine")
    assert layer_spec("auto") == layer_spec("local")
