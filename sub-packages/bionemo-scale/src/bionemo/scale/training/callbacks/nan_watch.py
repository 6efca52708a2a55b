"""Stop before a gradient that is not finite reaches the weights, and say where it began."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.errors import Stopped
from bionemo.scale.training.module import ScaleModule


class NanWatch(pl.Callback):
    """The `NanWatch` looks at the norm that Megatron computes, on the host, to clip the gradient: it costs nothing.

    The weights are those of the step before, so running the batch again shows the module that fails first.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: ScaleModule) -> None:
        """Look at every gradient norm before the optimizer uses it."""

        def watched(norm_of):
            def norm(*args, **kwargs) -> Any:
                value = norm_of(*args, **kwargs)
                if value is not None and not math.isfinite(value):
                    raise _stopped(trainer, pl_module)
                return value

            return norm

        for optimizer in trainer.optimizers:
            outer: Any = optimizer.mcore_optimizer  # type: ignore[attr-defined]
            for part in (outer, *getattr(outer, "chained_optimizers", ())):
                # One optimizer clips by itself; several chained ones share a norm.
                part.clip_grad_norm = watched(part.clip_grad_norm)
                part.get_grad_norm = watched(part.get_grad_norm)


def first_not_finite(module: ScaleModule, batch: TrainingBatch) -> str | None:
    """Name the first module whose output is not finite while its inputs are, on one batch; None if every output is."""
    assert module.module is not None
    found: list[str] = []

    def look(name: str):
        def after(_module, _inputs, output) -> None:
            # Inner modules end before the one that holds them, so the first to be found is the innermost.
            if not found and not all(tensor.isfinite().all() for tensor in _tensors(output)):
                found.append(name.removeprefix("module."))

        return after

    hooks = [part.register_forward_hook(look(name)) for name, part in module.module.named_modules() if name]
    try:
        # Compiled blocks would leave out the hooks that were not there when they were compiled.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            loss = module(batch)["loss"]
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None if loss.isfinite() else "the losses"


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _stopped(trainer: pl.Trainer, module: ScaleModule) -> Stopped:
    where = [None] * dist.get_world_size()
    assert module.batch is not None
    dist.all_gather_object(where, first_not_finite(module, module.batch))
    ranks = [rank for rank, name in enumerate(where) if name is not None]
    first = (
        f"the first output that is not finite is that of {where[ranks[0]]} on rank {ranks[0]}"
        if ranks
        else "every output of the last batch is finite, so it began in the backward pass or an earlier batch"
    )
    return Stopped(
        f"the gradient of step {trainer.global_step + 1} is not finite; {first}; the weights were left as they are: "
        f"lower training.learning_rate, or check the data, and start again."
    )
