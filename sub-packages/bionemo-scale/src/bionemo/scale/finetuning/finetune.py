"""Train a trained model further: on a new data set, with its contexts and perturbations beside the known ones."""

import logging
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only
from megatron.core import parallel_state

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.config.tuning import TuningConfig
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.errors import Stopped
from bionemo.scale.finetuning.names import extended_vocabulary
from bionemo.scale.finetuning.weights import joined_embeddings, known_rows, take_over
from bionemo.scale.model.condition_encoder import EMBEDDING
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.model.tuning import tune
from bionemo.scale.model.weight_average import WeightAverage
from bionemo.scale.runs.directory import RunDirectory, RunRecord
from bionemo.scale.runs.load import find_checkpoint, load_model
from bionemo.scale.runs.starting_point import write_starting_point
from bionemo.scale.training.fit import fit
from bionemo.scale.training.setup import open_training
from bionemo.screens.controls import ControlRoles
from bionemo.screens.errors import InputError

PATIENCE = 1800
"""Seconds that a process waits for the first one to write the weights that all start from."""
_log = logging.getLogger("bionemo.scale")


def finetune(
    start: str | Path,
    store: str | Path,
    split: str | Path,
    out: str | Path,
    compute: ComputeConfig,
    training: TrainingConfig,
    tuning: TuningConfig,
    embeddings: str | Path | None = None,
) -> None:
    """Train further what ``pretrain`` or ``finetune`` has trained, and leave a run like any other in ``out``.

    Called again with the same arguments it goes on from the last whole checkpoint. The files and directories are those
    of :func:`bionemo.scale.finetune`. The store has the model's genes in any order; see ``TuningConfig.genes`` for
    others. The roles of control cells are those of the run that it starts from: its weights have seen the cells that it
    predicts from. An InputError says that the arguments do not fit each other, the data, the trained model, or the run
    that ``out`` already holds.
    """
    source, _ = find_checkpoint(start)
    if os.path.realpath(source.path) == os.path.realpath(out):
        raise InputError(f"--out {out} is the run that finetuning starts from: name another directory.")
    before = source.read()
    config = before.model_config()
    if tuning.network_share is not None:
        config = replace(config, network_share=tuning.network_share)
    opened = open_training(store, split, config, compute, _with_roles(training, before.roles()), embeddings)
    old, shown = before.model_vocabulary(), opened.vocabulary
    vocabulary = extended_vocabulary(old, shown, tuning)
    run = RunDirectory(Path(out))
    record = opened.record(
        vocabulary,
        trained=_both(before.trained, opened.trained),
        tuning={**asdict(tuning), "known": known_rows(old, config)},
    )
    write = rank_zero_only.rank == 0
    with run.held(write=write):
        run.start(record, write=write)
        data = opened.data(run.linear_start, vocabulary)
        if run.last_checkpoint() is None:
            if write:
                fitted = data.tables()
                if opened.embeddings is not None:
                    fitted[EMBEDDING] = opened.embeddings.table(vocabulary)
                _write_start(run, record, start, fitted, shown)
                _log.info(
                    "%s knows %d contexts and %d perturbations; %d and %d are new", source.path, len(old.contexts),
                    len(old.perturbations) - 1, len(vocabulary.contexts) - len(old.contexts),
                    len(vocabulary.perturbations) - len(old.perturbations),
                )  # fmt: skip
            else:
                _wait_for_start(run)
        # Every weight and every buffer is in the checkpoint that it starts from.
        fit(run, data, {}, split, record.tuning)


def _with_roles(training: TrainingConfig, roles: ControlRoles) -> TrainingConfig:
    if training.control_roles not in (ControlRoles(), roles):
        raise InputError(
            f"training.controls={training.controls} and training.control_rotation={training.control_rotation} are not "
            f"those of the run that finetuning starts from, {roles.controls} and {roles.rotation}: leave them out."
        )
    return replace(training, controls=roles.controls, control_rotation=roles.rotation)


def _write_start(
    run: RunDirectory, record: RunRecord, start: str | Path, fitted: dict[str, torch.Tensor], shown: Vocabulary
) -> None:
    """Write the weights that training starts from, in this process alone."""
    source, chosen = find_checkpoint(start)
    ours = not dist.is_initialized()
    device = torch.device("cuda" if ComputeConfig(**record.compute).on_gpu else "cpu")
    trained, step = load_model(source, device, chosen)
    try:
        made = _starting_model(trained, record, fitted, shown)
        with run.errors_named():
            write_starting_point(run, made, {"from": str(source.path), "step": step})
    finally:
        if ours:
            # Training makes its own, of all its processes.
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()


def _starting_model(
    trained: ScaleModel, record: RunRecord, fitted: dict[str, torch.Tensor], shown: Vocabulary
) -> ScaleModel:
    """A model with the names of ``record`` and the weights of ``trained``, and what training adds to it."""
    torch.manual_seed(record.training["seed"])
    device, vocabulary, tuning = trained.gene_mean.device, record.model_vocabulary(), record.tuning
    assert tuning is not None
    if EMBEDDING in fitted:
        old = trained.condition_encoder.perturbation.embedding.cpu()
        fitted[EMBEDDING] = joined_embeddings(trained.vocabulary, old, vocabulary, fitted[EMBEDDING])
    made = []
    for _ in range(2 if record.training["average_decay"] else 1):
        model = ScaleModel(record.model_config(), trained.compute, vocabulary).to(device)
        take_over(trained, model, fitted, shown)
        if (share := record.model["network_share"]) is not None:
            model.network_share.fill_(share)
        tune(model, tuning)
        made.append(model)
    if len(made) > 1:
        made[1].load_state_dict(made[0].state_dict())
        made[0].add_module("average", WeightAverage(made[1]))
    return made[0]


def _wait_for_start(run: RunDirectory) -> None:
    """Until the first process has written the weights; there is no group of processes yet to wait in."""
    until = time.monotonic() + PATIENCE
    while run.last_checkpoint() is None:
        if time.monotonic() > until:
            raise Stopped(
                f"no weights to start from appeared in {run.checkpoints} for {PATIENCE} seconds: let --out be on a "
                f"disk that all processes share, and start the same command again."
            )
        time.sleep(0.5)


def _both(before: dict[str, list[str]] | None, now: dict[str, list[str]]) -> dict[str, list[str]] | None:
    """Context -> perturbations that trained the model, at any time; None where the first run did not say."""
    if before is None:
        return None
    return {context: sorted({*before.get(context, []), *now.get(context, [])}) for context in sorted({*before, *now})}
