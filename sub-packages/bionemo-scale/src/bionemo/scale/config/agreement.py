"""Check that the sections of settings fit each other: all that can be said without machine or data."""

import math

from bionemo.scale.config.compute import ComputeConfig, Fp8, LayerKind, Precision
from bionemo.scale.config.model import ModelConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.screens.errors import InputError

_FP8_MULTIPLES = {Fp8.DELAYED: (16, 16), Fp8.CURRENT: (16, 16), Fp8.MXFP8: (32, 32)}
"""What the widths and the rows of a product must be multiples of. A weight's gradient adds over the rows."""


def check_agreement(model: ModelConfig, compute: ComputeConfig, training: TrainingConfig) -> None:
    """Raise an InputError where the three sections of a training contradict each other."""
    _check_tensor_parallel(model, compute)
    if compute.sequence_parallel:
        _check_sequence_parallel(model, compute, training)
    if compute.fp8 is not Fp8.NONE:
        _check_fp8(model, compute, training)


def _divisors(number: int) -> str:
    """List all that divide ``number``, ascending."""
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def _check_tensor_parallel(model: ModelConfig, compute: ComputeConfig) -> None:
    ranks = compute.tensor_parallel
    for name, size in model.split_sizes().items():
        if size % ranks:
            raise InputError(
                f"compute.tensor_parallel={ranks} does not divide model.{name}={size}: "
                f"{_divisors(model.widest_split)} would divide all sizes, or make {name} a multiple of {ranks}."
            )
    if compute.world_size % ranks:
        raise InputError(
            f"compute.tensor_parallel={ranks} does not divide the {compute.world_size} processes of "
            f"compute.devices={compute.devices} x compute.nodes={compute.nodes}: "
            f"{_divisors(math.gcd(compute.world_size, model.widest_split))} would, or a multiple of {ranks} processes."
        )


def _check_sequence_parallel(model: ModelConfig, compute: ComputeConfig, training: TrainingConfig) -> None:
    ranks = compute.tensor_parallel
    sizes = {"model.gene_modules": model.gene_modules, "training.cells_per_set": training.cells_per_set}
    for name, size in sizes.items():
        if size % ranks:
            below = size // ranks * ranks
            fitting = " or ".join(str(n) for n in (below, below + ranks) if n)
            raise InputError(
                f"compute.sequence_parallel=true needs {name}={size} to be a multiple of "
                f"compute.tensor_parallel={ranks}: {fitting} would do."
            )


def _check_fp8(model: ModelConfig, compute: ComputeConfig, training: TrainingConfig) -> None:
    if compute.precision is not Precision.BF16:
        raise InputError(f"compute.fp8={compute.fp8} goes with compute.precision=bf16, not {compute.precision}.")
    if compute.layer_spec is LayerKind.LOCAL:
        raise InputError(
            f"compute.fp8={compute.fp8} needs compute.layer_spec=auto or transformer_engine, not local: use "
            f"compute.fp8=none here."
        )
    width_multiple, row_multiple = _FP8_MULTIPLES[compute.fp8]
    ranks = compute.tensor_parallel
    rows = training.sets_per_batch * training.cells_per_set // (ranks if compute.sequence_parallel else 1)
    sizes = {"training.sets_per_batch * training.cells_per_set on each rank": (rows, row_multiple)}
    for name, width in (("hidden_size", model.hidden_size), ("gene_module_size", model.gene_module_size)):
        queries = width // ranks
        keys = 2 * queries * model.num_query_groups // model.num_attention_heads
        for what, size in (
            (f"model.{name}", width),
            (f"the width of the queries that goes with model.{name} on each rank", queries),
            (f"the width of keys and values that goes with model.{name} on each rank", keys),
            (f"the feed-forward width that goes with model.{name} on each rank", model.feed_forward(width) // ranks),
        ):
            sizes[what] = size, width_multiple
    for name, (size, multiple) in sizes.items():
        if size % multiple:
            raise InputError(
                f"compute.fp8={compute.fp8} needs multiples of {multiple}, and {name} is {size}: "
                f"{size // multiple * multiple} and {-(-size // multiple) * multiple} would do."
            )
