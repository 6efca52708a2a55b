"""Train a model on a store, from its first step or from where a run was interrupted."""

import logging
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from nemo import lightning as nl

from bionemo.scale.config.model import Start, mixture
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.runs.directory import RunDirectory, checkpoint_step
from bionemo.scale.training.callbacks.checkpoints import Checkpoints
from bionemo.scale.training.callbacks.nan_watch import NanWatch
from bionemo.scale.training.callbacks.preemption import StopOnSignal
from bionemo.scale.training.callbacks.profiling import Profile
from bionemo.scale.training.callbacks.progress import ProgressBar, Throughput
from bionemo.scale.training.callbacks.selection import Selection
from bionemo.scale.training.data_module import CellSetsDataModule
from bionemo.scale.training.failures import one_sentence
from bionemo.scale.training.module import ScaleModule, precision_plugin
from bionemo.scale.training.setup import Opened
from bionemo.scale.training.strategy import strategy
from bionemo.screens.errors import InputError

_log = logging.getLogger("bionemo.scale")


def train(
    opened: Opened, out: str | Path, *, trial: dict | None = None, watchers: Sequence[pl.Callback] = ()
) -> RunDirectory:
    """Train in a run directory, which is held meanwhile, and return it; `trial` is what one has chosen before."""
    run, write = RunDirectory(Path(out)), rank_zero_only.rank == 0
    with run.held(write=write):
        run.start(opened.record(trial=trial), write=write)
        data = opened.data(run.linear_start)
        fit(run, data, data.tables(), opened.split_path, watchers=watchers)
    return run


def fit(
    run: RunDirectory,
    data: CellSetsDataModule,
    tables: dict[str, torch.Tensor],
    split: str | Path,
    tuning: dict | None = None,
    watchers: Sequence[pl.Callback] = (),
) -> None:
    """Train in a run directory whose ``run.json`` is written, from its newest checkpoint if it has one.

    `tables` are what the data say of the model's buffers, `tuning` is what a finetuning changes, as in `RunRecord`, and
    the path of the split serves messages. Watchers are further callbacks.
    """
    model, compute, vocabulary, training = data.model, data.compute, data.vocabulary, data.training
    last = run.last_checkpoint()
    if last is not None and checkpoint_step(last) >= training.max_steps:
        _log.info("%s is done: raise training.max_steps above %d to train further", last, training.max_steps)
        return
    best = run.best()
    if last is not None and best is not None and training.is_over(checkpoint_step(last), best.step):
        _log.info("%s is done: no better checkpoint since step %d; raise training.patience", last, best.step)
        return
    module = ScaleModule(model, compute, vocabulary, tables, training, data.scores(), tuning)
    # What `import` or `finetune` wrote has weights and no optimizer.
    imported = last is not None and checkpoint_step(last) == 0
    throughput = Throughput(training.log_every)
    trainer = nl.Trainer(
        accelerator="gpu" if compute.on_gpu else "cpu",
        devices=compute.devices,
        num_nodes=compute.nodes,
        max_steps=training.max_steps,
        strategy=strategy(compute, training, run, start_from=last if imported else None),
        plugins=precision_plugin(model, compute),
        callbacks=[throughput, ProgressBar(throughput), Selection(run, training)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=training.log_every,
        limit_val_batches=training.validation_batches if data.has_validation else 0,
        val_check_interval=training.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    nl.NeMoLogger(
        explicit_log_dir=str(run.path / "logs"),
        tensorboard=TensorBoardLogger(save_dir=str(run.path), name="", version="tensorboard"),
        wandb=_wandb(training, run),
        update_logger_directory=False,
    ).setup(trainer)
    if rank_zero_only.rank == 0:
        _log.info("%s, %s", data.summary(), f"going on from {last.name}" if last else f"{training.max_steps} steps")
        if model.start is Start.LINEAR and model.network_share is None and not data.has_validation:
            _log.warning(
                "nothing tells what share the network should have, so predictions will be the linear start alone: "
                "%s marks no validation conditions; list some under val, or set model.network_share",
                split,
            )
    checkpoints = Checkpoints(run, training)
    # Not handed to NeMoLogger, which would need nvidia-resiliency-ext to look at it.
    trainer.callbacks += [checkpoints, StopOnSignal(checkpoints), NanWatch(), *watchers]  # type: ignore[attr-defined]
    if training.profile_steps:
        trainer.callbacks.append(Profile(run.path / "profile", training.profile_steps))  # type: ignore[attr-defined]
    with one_sentence(run):
        trainer.fit(module, data, ckpt_path=None if last is None or imported else str(last))
    if rank_zero_only.rank == 0:
        best = run.best()
        share = float(module.model.network_share) if best is None else best.network_share
        _log.info(
            "trained: %s; predictions come from %s: %s",
            *(run.last_checkpoint(), run.best_checkpoint(), mixture(model.start, model.evidence, share)),
        )


def _wandb(training: TrainingConfig, run: RunDirectory) -> WandbLogger | None:
    if not training.wandb_project:
        return None
    import wandb

    logger = WandbLogger(project=training.wandb_project, name=run.path.name, save_dir=str(run.path))
    try:
        _ = logger.experiment  # reached now, rather than at the first number that is logged
    except wandb.Error as error:
        raise InputError(
            f"training.wandb_project={training.wandb_project} cannot be logged to ({str(error).splitlines()[0]}): run "
            "`wandb login`, or set WANDB_MODE=offline and send the run later with `wandb sync`."
        ) from error
    return logger
