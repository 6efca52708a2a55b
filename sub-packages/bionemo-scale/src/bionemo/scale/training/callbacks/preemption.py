"""Stop when told to: by Ctrl-C, or where the machine is taken away, by SIGTERM."""

import signal
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from bionemo.scale.ending import Told, told_to_end
from bionemo.scale.errors import Preempted
from bionemo.scale.training.callbacks.checkpoints import Checkpoints


class StopOnSignal(pl.Callback):
    """`StopOnSignal` saves a checkpoint after the step at which all ranks know of a signal of any rank, and ends.

    The ranks agree through a reduction on the CPU that runs beside the step: asked for at the end of one step, read at
    the end of the next. So no step waits for it, and nothing is copied from a GPU.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self._taken = ExitStack()
        self._told = Told(at_once=False)
        self._stopping: signal.Signals | None = None
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._ranks: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which would leave without a checkpoint."""
        self._told = self._taken.enter_context(told_to_end(at_once=False))
        self._ranks = dist.new_group(backend="gloo")

    def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
        """Stop if any rank had been told by the end of the step before."""
        if self._pending is not None:
            work, told = self._pending
            work.wait()
            if told.item():
                self._stopping = signal.Signals(int(told.item()))
                if not self.checkpoints.waits_for_validation(trainer):
                    self._stop(trainer)
        told = torch.tensor([self._told.by or 0], dtype=torch.int32)
        self._pending = dist.all_reduce(told, dist.ReduceOp.MAX, group=self._ranks, async_op=True), told

    def on_validation_end(self, trainer: pl.Trainer, *_) -> None:
        """Stop where the step had to be validated first."""
        if self._stopping is not None:
            self._stop(trainer)

    def on_train_end(self, *_) -> None:
        """Give the signals back."""
        self._taken.close()

    def on_exception(self, *_) -> None:
        """Give the signals back."""
        self._taken.close()

    def _stop(self, trainer: pl.Trainer) -> None:
        assert self._stopping is not None
        self.checkpoints.save_now(trainer)
        if trainer.global_rank:
            # Rank 0 says it. Any other code would look as if this rank had died.
            raise SystemExit(0)
        raise Preempted(
            f"stopped by {self._stopping.name} after step {trainer.global_step}, which is saved: start the same "
            f"command again.",
            self._stopping,
        )
