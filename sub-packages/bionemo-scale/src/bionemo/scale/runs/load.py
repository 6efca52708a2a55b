"""Load a trained model from its run directory, in this process alone."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from bionemo.scale.config.compute import ComputeConfig, Device
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.model.tuning import tune
from bionemo.scale.runs.directory import RunDirectory, checkpoint_step
from bionemo.scale.runs.safe_reading import reading
from bionemo.screens.errors import InputError


def find_checkpoint(path: str | Path) -> tuple[RunDirectory, Path | None]:
    """Find the run that a path names, and the checkpoint, if the path names ``RUN/checkpoints/step=N``."""
    # Made absolute, for names such as `step=2` inside `checkpoints`; links are not followed.
    place = Path(os.path.abspath(path))
    if place.parent.name == "checkpoints" and place.name.startswith("step="):
        return RunDirectory(place.parents[1]), place
    return RunDirectory(Path(path)), None


def load_model(run: RunDirectory, device: torch.device, checkpoint: Path | None = None) -> tuple[ScaleModel, int]:
    """Build the model of a run and load a checkpoint, whatever parallelism wrote it.

    Where none of its checkpoints is given, it is that which validated best, or the newest where none was validated.
    Where training kept an average of the weights, the average is what is loaded. Adapters of low rank are put into the
    weights that they stand beside. Return the model in evaluation mode, and the training steps behind it. An InputError
    says that the run has no such checkpoint, or that it is damaged or of another model.
    """
    if checkpoint is not None and checkpoint not in run.whole_checkpoints().values():
        there = ", ".join(f"step={step}" for step in sorted(run.whole_checkpoints())) or "none"
        raise InputError(f"{run.path} has no whole checkpoint {checkpoint.name}; it has {there}.")
    checkpoint = checkpoint or run.best_checkpoint()
    if checkpoint is None:
        raise InputError(f"{run.path} has no checkpoint yet: let `pretrain` reach training.checkpoint_every steps.")
    one_process_groups(device)
    record = run.read()
    compute = ComputeConfig(device=Device(device.type))
    # NeMo's training wraps the model once and keeps weights and optimizer state in one place.
    prefix = "module.average.model." if record.training["average_decay"] else "module."
    with reading(checkpoint, record):
        model = ScaleModel(record.model_config(), compute, record.model_vocabulary()).to(device)
        adapters = None if record.tuning is None else tune(model, record.tuning)
        wanted = {"state_dict": model.sharded_state_dict(prefix=prefix)}
        loaded: dict[str, Any] = dist_checkpointing.load(wanted, str(checkpoint / "weights"))  # type: ignore[assignment]
        weights = {name.removeprefix(prefix): value for name, value in loaded["state_dict"].items()}
        model.load_state_dict(weights)
    if adapters is not None:
        adapters.merge(model)
    return model.eval(), checkpoint_step(checkpoint)


def torch_device(name: str) -> torch.device:
    """Return the device of a name: ``auto`` is a GPU where there is one; an InputError for an unknown name."""
    return torch.device(ComputeConfig(device=name).resolved().device)  # type: ignore[arg-type]


def one_process_groups(device: torch.device) -> None:
    """Make the process groups that Megatron's layers look up even where they are alone.

    Groups that are there are taken, as long as every process has a whole model in them; an InputError says that this
    one is part of a training that splits its model. Where torch.distributed has several processes, all of them must
    call this together.
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if not parallel_state.is_initialized():
        parallel_state.initialize_model_parallel()
        if device.type == "cuda":
            model_parallel_cuda_manual_seed(0)
    elif (parts := parallel_state.get_tensor_model_parallel_world_size()) > 1:
        raise InputError(
            f"this process trains a model that is split over {parts} processes: load a whole one in another process."
        )
