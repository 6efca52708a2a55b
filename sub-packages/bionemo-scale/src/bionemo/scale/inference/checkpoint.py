"""A trained model from its run directory, in this process alone."""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from bionemo.scale.errors import InputError
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.training.run_directory import RunDirectory, checkpoint_step
from bionemo.scale.training.safe_reading import reading


def load_model(run: RunDirectory, device: torch.device) -> tuple[ScaleModel, int]:
    """Build the model of a run and load its newest checkpoint, whatever parallelism wrote it.

    Returns
    -------
    model : ScaleModel
        In evaluation mode, on ``device``.
    step : int
        Training steps behind it.

    Raises
    ------
    InputError
        The run has no whole checkpoint yet, or its newest is damaged or of another model.
    """
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        raise InputError(f"{run.path} has no checkpoint yet: let `pretrain` reach training.checkpoint_every steps.")
    _one_process_groups(device)
    record = run.read()
    model = ScaleModel(record.model_config(tensor_parallel=1), record.model_vocabulary()).to(device)
    # NeMo's training wraps the model once and keeps weights and optimizer state in one place.
    wanted = {"state_dict": model.sharded_state_dict(prefix="module.")}
    with reading(checkpoint):
        loaded: dict[str, Any] = dist_checkpointing.load(wanted, str(checkpoint / "weights"))  # type: ignore[assignment]
        weights = {name.removeprefix("module."): value for name, value in loaded["state_dict"].items()}
        model.load_state_dict(weights)
    return model.eval(), checkpoint_step(checkpoint)


def _one_process_groups(device: torch.device) -> None:
    """Megatron's layers look up their process groups even where they are alone."""
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if not parallel_state.is_initialized():
        parallel_state.initialize_model_parallel()
        if device.type == "cuda":
            model_parallel_cuda_manual_seed(0)
