"""The count of operations behind FLOP/s and MFU."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.layers import linear
from bionemo.scale.linear_start.apply import FEATURES
from bionemo.scale.model.flops import peak_flops, training_flops


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": "regression", "gene_modules": 1, "condition_seeds": 2},
        {"hidden_size": 32, "num_query_groups": 4, "num_layers": 3, "encoder_layers": 2, "ffn_hidden_size": 48},
        {"set_loss": "none", "prediction": "velocity"},
        {"set_loss": "mmd", "deep_sets": False},
        {"condition_pooling": "mean"},
        {"reconstruction_share": 1.0},
        {"start": "linear", "evidence": "on"},
        {"start": "linear", "evidence": "on", "set_loss": "none"},
    ],
)
def test_the_count_is_what_torch_counts(build, sets, vocabulary, changes, monkeypatch):
    # Torch does not count oneDNN's product when it is called by name.
    monkeypatch.setattr(linear, "_ONEDNN", None)
    model, batch = build(**changes, names=replace(vocabulary, start_labels=("MYC",))), sets(18, 4, 5)
    batch["condition"] = replace(batch["condition"], evidence=torch.randn(3, FEATURES, 20))
    batch |= {"shift": torch.zeros(3, 20), "trust": torch.ones(3)}
    # Torch counts attention where it is made of products; the fused kernel of a CPU it does not know.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(TrainingBatch(**batch))["loss"].backward()
    assert training_flops(model.scale, model.compute, 20, sets=3, cells=18) == counter.get_total_flops()


def test_the_peak_is_of_the_device_that_is_there():
    assert peak_flops("NVIDIA H200") == 0.989e15
    assert peak_flops("NVIDIA H100 80GB HBM3") == 0.989e15
    assert peak_flops("NVIDIA H100 PCIe") == 0.756e15
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 0.312e15


def test_gb200_has_a_peak_of_its_own_and_an_unknown_device_none_and_a_notice(caplog):
    assert peak_flops("NVIDIA GB200") == 2.5e15
    assert peak_flops("NVIDIA B200") == 2.25e15
    with caplog.at_level("WARNING", logger="bionemo.scale"):
        assert peak_flops("NVIDIA XB200") is None
        assert peak_flops("NVIDIA XB200") is None
    assert [record.getMessage() for record in caplog.records].count(caplog.records[0].getMessage()) == 1
    assert "'NVIDIA XB200'" in caplog.text
