"""Stop when the machine is taken away: on SIGTERM, which Slurm sends before a preemption or a time limit."""

import signal
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from bionemo.scale.errors import Preempted
from bionemo.scale.training.callbacks.checkpoints import Checkpoints


class StopOnSigterm(pl.Callback):
    """Saves a checkpoint after the step at which all ranks know of a SIGTERM that any of them got, and ends.

    The ranks agree through a reduction on the CPU that runs beside the step: asked for at the end of one step, read at
    the end of the next. So no step waits for it, and nothing is copied from a GPU.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self._told = False
        self._stopping = False
        self._before: Any = None
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._ranks: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signal over from Lightning, which would leave without a checkpoint."""
        self._before = signal.signal(signal.SIGTERM, self._note)
        self._ranks = dist.new_group(backend="gloo")

    def _note(self, _signal, _frame) -> None:
        self._told = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
        """Stop if any rank had been told by the end of the step before."""
        if self._pending is not None:
            work, told = self._pending
            work.wait()
            if told.item():
                if not self.checkpoints.waits_for_validation(trainer):
                    self._stop(trainer)
                self._stopping = True
        told = torch.tensor([int(self._told)], dtype=torch.int32)
        self._pending = dist.all_reduce(told, dist.ReduceOp.MAX, group=self._ranks, async_op=True), told

    def on_validation_end(self, trainer: pl.Trainer, *_) -> None:
        """Stop where the step had to be validated first."""
        if self._stopping:
            self._stop(trainer)

    def on_train_end(self, *_) -> None:
        """Give the signal back."""
        self._release()

    def on_exception(self, *_) -> None:
        """Give the signal back."""
        self._release()

    def _stop(self, trainer: pl.Trainer) -> None:
        self.checkpoints.save_now(trainer)
        if trainer.global_rank:
            # Rank 0 says it. Any other code would make Lightning's launcher kill rank 0 before it can.
            raise SystemExit(0)
        raise Preempted(
            f"stopped by SIGTERM after step {trainer.global_step}, which is saved: start the same command again."
        )

    def _release(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
