"""Refuse settings that do not fit each other, the machine or the data, before anything starts."""

import importlib.util
import os

import numpy as np
import torch

from bionemo.cellsets import CellStore
from bionemo.scale.config.agreement import check_agreement
from bionemo.scale.config.compute import ComputeConfig, Device, Fp8, Precision
from bionemo.scale.config.model import ModelConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.environment import check_launcher
from bionemo.scale.layers.specs import transformer_engine_works
from bionemo.screens.errors import InputError

_CAPABILITY = {Fp8.DELAYED: (8, 9), Fp8.CURRENT: (8, 9), Fp8.MXFP8: (10, 0)}
"""Compute capability from which a chip has each kind of FP8."""


def check_settings(model: ModelConfig, compute: ComputeConfig, training: TrainingConfig) -> None:
    """Raise an InputError where the settings contradict each other, or the machine lacks what they ask for."""
    check_agreement(model, compute, training)
    _check_slurm(compute)
    check_launcher(compute.world_size, compute.nodes)
    if compute.device is Device.CUDA and not torch.cuda.is_available():
        raise InputError("compute.device=cuda needs a GPU, and this machine shows none: use compute.device=cpu.")
    if compute.on_gpu and compute.devices > torch.cuda.device_count():
        raise InputError(
            f"compute.devices={compute.devices} is more than the {torch.cuda.device_count()} GPUs of this machine: "
            f"lower it, or ask for more with compute.nodes."
        )
    if compute.precision is Precision.BF16 and compute.on_gpu and not torch.cuda.is_bf16_supported():
        raise InputError(f"{torch.cuda.get_device_name()} has no bf16: use compute.precision=fp32.")
    if training.wandb_project and importlib.util.find_spec("wandb") is None:
        raise InputError(f"training.wandb_project={training.wandb_project} needs the package wandb: pip install wandb.")
    if compute.fp8 is not Fp8.NONE:
        _check_chip(compute)


def check_data(store: CellStore, eligible_runs: np.ndarray, training: TrainingConfig, data_parallel: int) -> None:
    """Raise an InputError where an epoch has fewer sets than ranks that share it: some would never see a cell.

    `eligible_runs`, bool [runs], is True for those to train on.
    """
    lengths = store.runs["length"][eligible_runs]
    sets = int((-(-lengths // training.cells_per_set)).sum())
    if sets < data_parallel:
        raise InputError(
            f"{store.path} has {sets} sets of {training.cells_per_set} cells to train on, fewer than the "
            f"{data_parallel} data-parallel ranks: use at most {sets}, or a smaller training.cells_per_set."
        )


def _check_slurm(compute: ComputeConfig) -> None:
    """Raise an InputError where Slurm started other tasks than the settings count on, which would never meet."""
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    name = os.environ.get("SLURM_JOB_NAME", "")
    if name.endswith(("bash", "interactive")):  # nemo/lightning/__init__.py takes such a job for a terminal
        if tasks > 1 and "SLURM_STEP_ID" in os.environ:
            raise InputError(
                f"NeMo does not use the {tasks} tasks that srun started, since the job is called {name!r}: give it "
                f"another --job-name."
            )
        return
    if tasks > 1 and tasks != compute.world_size:
        raise InputError(
            f"Slurm starts {tasks} tasks, and compute.devices={compute.devices} x compute.nodes={compute.nodes} "
            f"asks for {compute.world_size}: set them to --ntasks-per-node and --nodes, and start this with srun."
        )


def _check_chip(compute: ComputeConfig) -> None:
    mend = "use compute.fp8=none here"
    if not (compute.on_gpu and transformer_engine_works()):
        raise InputError(f"compute.fp8={compute.fp8} needs a GPU and a working transformer-engine: {mend}.")
    capability = _CAPABILITY[compute.fp8]
    if torch.cuda.get_device_capability() < capability:
        raise InputError(
            f"compute.fp8={compute.fp8} needs compute capability {capability[0]}.{capability[1]}, which "
            f"{torch.cuda.get_device_name()} has not: {mend}."
        )
