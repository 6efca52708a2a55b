"""The count of operations behind FLOP/s and MFU."""

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bionemo.scale.layers import attention, linear
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
    ],
)
def test_the_count_is_what_torch_counts(build, sets, changes, monkeypatch):
    # What is attended to element by element torch does not count, nor oneDNN's product when it is called by name.
    monkeypatch.setattr(attention, "MOST_BY_ELEMENTS", 0)
    monkeypatch.setattr(linear, "_ONEDNN", None)
    model, batch = build(**changes), sets(18, 4, 5)
    # Torch counts attention where it is made of products; the fused kernel of a CPU it does not know.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(**batch)["loss"].backward()
    assert training_flops(model.scale, model.compute, 20, sets=3, cells=18) == counter.get_total_flops()


def test_the_peak_is_of_the_device_that_is_there():
    assert peak_flops("NVIDIA H200") == 0.989e15
    assert peak_flops("NVIDIA H100 80GB HBM3") == 0.989e15
    assert peak_flops("NVIDIA H100 PCIe") == 0.756e15
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 0.312e15
    assert peak_flops("a CPU") is None
