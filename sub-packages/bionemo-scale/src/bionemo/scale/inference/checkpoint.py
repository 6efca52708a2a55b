"""A trained model from its run directory, in this process alone."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from bionemo.scale.errors import InputError
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.training.run_directory import RunDirectory, checkpoint_step
from bionemo.scale.training.safe_reading import reading


def find_checkpoint(path: Path) -> tuple[RunDirectory, Path]:
    """A run and its newest whole checkpoint, or the one of its checkpoints that ``path`` names.

    Raises
    ------
    InputError
        The run has no whole checkpoint, or the named one was not written to its end.
    """
    if path.name.startswith("step=") and path.parent.name == "checkpoints":
        run = RunDirectory(path.parent.parent)
        if path.resolve() not in [whole.resolve() for whole in run.whole_checkpoints().values()]:
            raise InputError(f"{path} is no whole checkpoint: give one of those in {path.parent}, or the run.")
        return run, path
    run = RunDirectory(path)
    run.read()
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        raise InputError(f"{path} has no checkpoint yet: let `pretrain` reach training.checkpoint_every steps.")
    return run, checkpoint


def load_model(run: RunDirectory, device: torch.device, checkpoint: Path | None = None) -> tuple[ScaleModel, int]:
    """Build the model of a run and load a checkpoint, its newest if none is given, whatever parallelism wrote it.

    Returns
    -------
    model : ScaleModel
        In evaluation mode, on ``device``.
    step : int
        Training steps behind it.

    Raises
    ------
    InputError
        The run has no whole checkpoint yet, or it is damaged or of another model.
    """
    if checkpoint is None:
        _, checkpoint = find_checkpoint(run.path)
    one_process_groups(device)
    record = run.read()
    model = ScaleModel(record.model_config(tensor_parallel=1), record.model_vocabulary()).to(device)
    # NeMo's training wraps the model once and keeps weights and optimizer state in one place.
    wanted = {"state_dict": model.sharded_state_dict(prefix="module.")}
    with reading(checkpoint):
        loaded: dict[str, Any] = dist_checkpointing.load(wanted, str(checkpoint / "weights"))  # type: ignore[assignment]
        weights = {name.removeprefix("module."): value for name, value in loaded["state_dict"].items()}
        model.load_state_dict(weights)
    return model.eval(), checkpoint_step(checkpoint)


def one_process_groups(device: torch.device) -> None:
    """Megatron's layers look up their process groups even where they are alone."""
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if not parallel_state.is_initialized():
        parallel_state.initialize_model_parallel()
        if device.type == "cuda":
            model_parallel_cuda_manual_seed(0)
