"""Settings that fit their types and not each other, the machine or the data: refused before anything starts."""

import importlib.util
import math
import os

import numpy as np
import torch

from bionemo.cellsets import CellStore
from bionemo.scale.config.model import Fp8, ScaleConfig
from bionemo.scale.config.training import Precision, TrainingConfig
from bionemo.scale.layers.specs import transformer_engine_works
from bionemo.screens.errors import InputError

# Compute capability from which a chip has it, and what the widths and the rows of a product must be multiples of.
_FP8_NEEDS = {Fp8.DELAYED: ((8, 9), 16, 8), Fp8.CURRENT: ((8, 9), 16, 8), Fp8.MXFP8: ((10, 0), 32, 32)}


def check_settings(model: ScaleConfig, training: TrainingConfig) -> None:
    """Raise an InputError where the processes, the precision or the chip do not fit the model."""
    _check_slurm(training)
    processes = training.world_size
    if processes % model.tensor_parallel:
        fitting = ", ".join(str(n) for n in divisors(math.gcd(processes, model.widest_split)))
        raise InputError(
            f"model.tensor_parallel={model.tensor_parallel} does not divide the {processes} processes of "
            f"training.devices={training.devices} x training.nodes={training.nodes}: {fitting} would, or a multiple of "
            f"{model.tensor_parallel} processes."
        )
    if model.sequence_parallel and training.cells_per_set % model.tensor_parallel:
        below = training.cells_per_set // model.tensor_parallel * model.tensor_parallel
        fitting = " or ".join(str(n) for n in (below, below + model.tensor_parallel) if n)
        raise InputError(
            f"model.sequence_parallel=true needs training.cells_per_set={training.cells_per_set} to be a multiple of "
            f"model.tensor_parallel={model.tensor_parallel}: {fitting} would do."
        )
    if torch.cuda.is_available() and training.devices > torch.cuda.device_count():
        raise InputError(
            f"training.devices={training.devices} is more than the {torch.cuda.device_count()} GPUs of this machine: "
            f"lower it, or ask for more with training.nodes."
        )
    if training.precision is Precision.BF16 and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise InputError(f"{torch.cuda.get_device_name()} has no bf16: use training.precision=fp32.")
    if training.wandb_project and importlib.util.find_spec("wandb") is None:
        raise InputError(f"training.wandb_project={training.wandb_project} needs the package wandb: pip install wandb.")
    if model.fp8 is not Fp8.NONE:
        _check_fp8(model, training)


def check_data(store: CellStore, eligible_runs: np.ndarray, training: TrainingConfig, data_parallel: int) -> None:
    """Raise an InputError where an epoch has fewer sets than ranks that share it: some would never see a cell.

    Parameters
    ----------
    store
        The training data.
    eligible_runs
        bool [runs], True for those to train on.
    training
        For the size of a set.
    data_parallel
        Ranks that share the epoch.
    """
    lengths = store.runs["length"][eligible_runs]
    sets = int((-(-lengths // training.cells_per_set)).sum())
    if sets < data_parallel:
        raise InputError(
            f"{store.path} has {sets} sets of {training.cells_per_set} cells to train on, fewer than the "
            f"{data_parallel} data-parallel ranks: use at most {sets}, or a smaller training.cells_per_set."
        )


def divisors(number: int) -> list[int]:
    """All that divide ``number``, ascending."""
    return [n for n in range(1, number + 1) if number % n == 0]


def _check_slurm(training: TrainingConfig) -> None:
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
    if tasks > 1 and tasks != training.world_size:
        raise InputError(
            f"Slurm starts {tasks} tasks, and training.devices={training.devices} x training.nodes={training.nodes} "
            f"asks for {training.world_size}: set them to --ntasks-per-node and --nodes, and start this with srun."
        )


def _check_fp8(model: ScaleConfig, training: TrainingConfig) -> None:
    capability, width_multiple, row_multiple = _FP8_NEEDS[model.fp8]
    mend = "use model.fp8=none here"
    if training.precision is not Precision.BF16:
        raise InputError(f"model.fp8={model.fp8} goes with training.precision=bf16, not {training.precision}.")
    if model.layer_spec == "local" or not transformer_engine_works():
        raise InputError(
            f"model.fp8={model.fp8} needs a GPU, a working transformer-engine and layer_spec=auto or "
            f"transformer_engine: {mend}."
        )
    if torch.cuda.get_device_capability() < capability:
        raise InputError(
            f"model.fp8={model.fp8} needs compute capability {capability[0]}.{capability[1]}, which "
            f"{torch.cuda.get_device_name()} has not: {mend}."
        )
    rows = training.sets_per_batch * training.cells_per_set // (model.tensor_parallel if model.sequence_parallel else 1)
    sizes = {"training.sets_per_batch * training.cells_per_set on each rank": (rows, row_multiple)}
    for name, width in (("hidden_size", model.hidden_size), ("gene_module_size", model.gene_module_size)):
        sizes[f"model.{name}"] = width, width_multiple
        queries = width // model.tensor_parallel
        sizes[f"the width of the queries that goes with model.{name} on each rank"] = queries, width_multiple
        keys = 2 * queries * model.num_query_groups // model.num_attention_heads
        sizes[f"the width of keys and values that goes with model.{name} on each rank"] = keys, width_multiple
        sizes[f"the feed-forward width that goes with model.{name} on each rank"] = (
            model.feed_forward(width) // model.tensor_parallel,
            width_multiple,
        )
    for name, (size, multiple) in sizes.items():
        if size % multiple:
            raise InputError(
                f"model.fp8={model.fp8} needs multiples of {multiple}, and {name} is {size}: "
                f"{size // multiple * multiple} and {-(-size // multiple) * multiple} would do."
            )
