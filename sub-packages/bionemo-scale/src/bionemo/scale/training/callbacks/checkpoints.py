"""Decide when checkpoints are written, which are kept, and what happens when one cannot be written."""

import threading
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only
from nemo.lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed.checkpoint.api import CheckpointException

from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.errors import Stopped
from bionemo.scale.runs.checksums import seal
from bionemo.scale.runs.directory import RunDirectory, checkpoint_step
from bionemo.scale.runs.failures import reason
from bionemo.scale.training.failures import goes_on


class Checkpoints(ModelCheckpoint):
    """The `Checkpoints` are written every few steps and at the end; the newest and the best are kept.

    A checkpoint is named by the steps behind it. Which is the best, :class:`Selection` says.
    """

    def __init__(self, run: RunDirectory, training: TrainingConfig):
        super().__init__(
            dirpath=str(run.checkpoints),
            filename="{step}",
            monitor=None,
            save_last=True,
            save_top_k=0,
            every_n_train_steps=training.checkpoint_every,
            # A finished run can be trained further.
            save_optim_on_train_end=True,
            # NeMo would pickle the whole trainer beside the weights; run.json says what is needed.
            always_save_context=False,
            save_context_on_train_end=False,
            # A checkpoint has one name; where it is taken, something else writes here.
            enable_version_counter=False,
        )
        self.CHECKPOINT_NAME_LAST = "{step}"
        self.run, self.keep, self._validate_every = run, training.keep_checkpoints, training.validate_every
        last = run.last_checkpoint()
        self._saved_step = -1 if last is None else checkpoint_step(last)
        self._best = run.best()

    def setup(self, trainer, *args, **kwargs) -> None:
        """Remember the trainer: the step among the logged metrics is the one before."""
        self._trainer = trainer
        super().setup(trainer, *args, **kwargs)

    def format_checkpoint_name(self, metrics, *args, **kwargs) -> str:
        """Name a checkpoint ``step=100`` after the hundredth optimizer step."""
        return super().format_checkpoint_name({**metrics, "step": self._trainer.global_step}, *args, **kwargs)

    def on_train_batch_end(self, trainer, *args, **kwargs) -> None:
        """Save every few steps; a step that is to be validated is saved after it, with what validation chooses."""
        if not self.waits_for_validation(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)

    def waits_for_validation(self, trainer: pl.Trainer) -> bool:
        """Tell whether the step that has just been taken is validated next, which chooses what its checkpoint holds."""
        return bool(trainer.limit_val_batches) and trainer.global_step % self._validate_every == 0

    def on_validation_end(self, trainer, pl_module) -> None:
        """Save; :class:`Selection` has said before whether this is the best."""
        self._best = self.run.best()
        super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        """Save the last step: NeMo leaves it to a validation, and there may be none."""
        super().on_train_end(trainer, pl_module)
        self.save_now(trainer)

    def save_now(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint of this step, if there is none, and wait until it is whole."""
        if self._saved_step != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        finalize = getattr(trainer.strategy.checkpoint_io, "maybe_finalize_save_checkpoint", None)
        if finalize is not None:
            finalize(blocking=True)

    def _should_remove_checkpoint(self, *_args) -> bool:
        return False  # _prune does

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        if self._saved_step == trainer.global_step:
            return
        self.run.check_record()
        try:
            super()._save_checkpoint(trainer, filepath)
        except Stopped:
            raise
        # The writers' errors arrive as whatever the layer between turned them into.
        except (OSError, RuntimeError, CheckpointException) as error:
            raise self._failed(Path(filepath).with_suffix(""), error) from error
        self._saved_step = trainer.global_step

    def _get_finalize_save_checkpoint_callback(self, trainer: pl.Trainer, filepath: str, global_step: int):
        """Seal a checkpoint whose files are written, before it counts."""
        finish = super()._get_finalize_save_checkpoint_callback(trainer, filepath, global_step)

        def seal_and_finish() -> None:
            self.run.check_record()
            seal(Path(filepath).with_suffix(""), self.run.read())
            finish()
            self._prune()

        return seal_and_finish

    def _prune(self) -> None:
        """Remove all whole checkpoints but the newest ``keep`` and the best."""
        if rank_zero_only.rank:
            return
        whole = self.run.whole_checkpoints()
        spared = {*sorted(whole)[-self.keep :], *([] if self._best is None else [self._best.step])}
        for step, checkpoint in whole.items():
            if step not in spared:
                self.run.mark_unfinished(checkpoint)
                # Training goes on where it does not wait for the new one either.
                removal = threading.Thread(target=self.run.remove_unfinished, args=(checkpoint,))
                removal.start()
                if not self.async_save:
                    removal.join()

    def _failed(self, folder: Path, error: BaseException) -> Stopped:
        if rank_zero_only.rank == 0:
            self.run.remove_unfinished(folder)
        return Stopped(
            f"{folder.parent} could not take checkpoint {folder.name} ({reason(error)}): make room there and start the "
            f"same command again; {goes_on(self.run)}."
        )
