"""What a training asks of Megatron, by the device that it is computed on."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from megatron.core import optimizer as megatron

from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.training import module as training_module
from bionemo.scale.training.module import ScaleModule, optimizer
from bionemo.scale.training.strategy import strategy

TRAINING = TrainingConfig(max_steps=100, sets_per_batch=4, cells_per_set=8, seed=7)


class FusedAdam:
    """Stands in for the optimizer of apex or Transformer Engine."""


@pytest.mark.parametrize(
    ("device", "adam", "divided"),
    [("cpu", FusedAdam, False), ("cuda", FusedAdam, True), ("cuda", torch.optim.AdamW, False)],
    ids=["cpu", "gpu", "gpu without apex and transformer-engine"],
)
def test_the_optimizer_is_divided_where_its_state_can_be_restored(
    monkeypatch, tmp_path, compute, device, adam, divided
):
    monkeypatch.setattr(megatron, "Adam", adam)
    for devices in (1, 2):  # one alone has nobody to exchange with
        compute = replace(compute, device=device, devices=devices)
        made = strategy(compute, TRAINING, RunDirectory(tmp_path))
        assert made.ddp_config.use_distributed_optimizer is divided
        assert made.ddp_config.overlap_param_gather is (divided and devices > 1)
        assert made.ddp_config.overlap_grad_reduce is (device == "cuda" and devices > 1)
    assert optimizer(compute, TRAINING).config.use_distributed_optimizer is divided


def test_the_seed_reaches_the_weights_of_divided_layers_on_a_gpu(monkeypatch, config, compute, vocabulary):
    seeds = []
    monkeypatch.setattr(training_module, "model_parallel_cuda_manual_seed", seeds.append)
    monkeypatch.setattr(ScaleModule, "_model", lambda self: torch.nn.Linear(1, 1))
    for device in ("cpu", "cuda"):
        ScaleModule(config, replace(compute, device=device), vocabulary, {}, TRAINING).configure_model()
    assert seeds == [7]


def test_training_on_the_cpu_of_a_machine_with_a_gpu_leaves_the_gpu_alone():
    script = """
import torch
torch.cuda.is_available = lambda: True
from bionemo.scale.training.cpu import redirect_cuda_to_cpu
redirect_cuda_to_cpu()
print(torch.cuda.is_available(), torch.zeros(1, device="cuda").device)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "cpu"]
