"""Begin a run with weights: its checkpoint of step 0 has no optimizer state."""

import errno
import json

import torch
from megatron.core import dist_checkpointing
from megatron.core.transformer.module import MegatronModule
from torch.distributed.checkpoint.api import CheckpointException

from bionemo.scale.ending import forks_die_with_this
from bionemo.scale.runs.checksums import seal
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.runs.failures import reason
from bionemo.scale.runs.writing import writing_without_cuda


def write_starting_point(run: RunDirectory, model: MegatronModule, origin: dict) -> None:
    """Write the checkpoint that the first step of a run starts from, whose ``run.json`` is written.

    The model is in this process alone, with everything that training adds to it. ``origin.json`` says for a reader
    where its weights are from. An OSError says that the run cannot be written to.
    """
    place = run.checkpoints / "step=0"
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    run.mark_unfinished(place)
    (place / "weights").mkdir(parents=True, exist_ok=True)
    with forks_die_with_this(), writing_without_cuda(), torch.no_grad():
        try:
            dist_checkpointing.save({"state_dict": model.sharded_state_dict(prefix="module.")}, str(place / "weights"))
        except (RuntimeError, CheckpointException) as error:  # Megatron's writers have them for a disk that is full
            raise OSError(errno.ENOSPC, reason(error)) from error
    (place / "origin.json").write_text(json.dumps(origin))
    seal(place, run.read())
    run.mark_finished(place)
