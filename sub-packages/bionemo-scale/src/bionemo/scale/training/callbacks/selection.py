"""Choose the checkpoint that a run is remembered by: the one that predicts the validation conditions best."""

import logging

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from bionemo.scale.config.model import Start
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.runs.directory import Best, RunDirectory
from bionemo.scale.training.module import ScaleModule

METRIC = "val_score"
_log = logging.getLogger("bionemo.scale")


class Selection(pl.Callback):
    """Scores validations, tells the run of a new best, sets the network share, and ends a run that no longer improves.

    It comes before the callback that writes checkpoints, so that a checkpoint holds the share that its validation
    chose, and the average of weights with its own step.
    """

    def __init__(self, run: RunDirectory, training: TrainingConfig):
        self.run, self.training = run, training

    def on_train_start(self, trainer: pl.Trainer, pl_module: ScaleModule) -> None:
        """Repeat a whole validation where a resumed run repeats one: the loop remembers that its batches were taken."""
        trainer.fit_loop.epoch_loop.val_loop.restarting = False
        # Lightning numbers what validation logs by this; a checkpoint has it without the step that it was saved after.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ScaleModule, *_) -> None:
        """Take the step into the average of weights before a checkpoint of it is written."""
        pl_module.average_weights()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: ScaleModule) -> None:
        """Begin a score."""
        if pl_module.scores is not None:
            pl_module.scores.reset()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: ScaleModule) -> None:
        """Finish the score and act on it."""
        if pl_module.scores is None:
            return
        score = pl_module.scores.best(pl_module.model.network_share.device)
        pl_module.set_network_share(score.network_share)
        trainer.callback_metrics["val_pdcorr"] = torch.tensor(score.pdcorr)
        chosen = pl_module.scale.start is Start.LINEAR
        logged = {"val/score": score.value, "val/pdcorr": score.pdcorr, "val/explained": score.explained}
        logged |= {"val/network_share": score.network_share} if chosen else {}
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=trainer.global_step)
        best = self.run.best()
        step = trainer.global_step
        # At a tie the later one; it may be the same step, validated again after an interruption.
        if best is None or score.value >= best.value:
            if rank_zero_only.rank == 0:
                self.run.mark_best(Best(step=step, metric=METRIC, value=score.value, network_share=score.network_share))
                kept = f", with {score.network_share:.0%} of the network" if chosen else ""
                _log.info(
                    "step %d predicts the validation conditions best so far: PDCorr %.4f, %.0f%% of the energy "
                    "distance explained%s",
                    *(step, score.pdcorr, 100 * score.explained, kept),
                )
            torch.distributed.barrier()
            return
        if self.training.is_over(step, best.step):
            _log.info("stopping: no better checkpoint since step %d", best.step)
            trainer.should_stop = True
