"""Pretrain a model; where the split marks no validation conditions, a trial first holds out some of its own."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from bionemo.cellsets import CellStore
from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import ModelConfig, Start
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.training.fit import train
from bionemo.scale.training.setup import open_training
from bionemo.screens import Split
from bionemo.screens.inner_split import inner_split

TRIAL = "trial"
"""The trial's run is this directory inside the run's."""
_log = logging.getLogger("bionemo.scale")


def pretrain(
    store: str | Path,
    split: str | Path,
    out: str | Path,
    model: ModelConfig,
    compute: ComputeConfig,
    training: TrainingConfig,
    embeddings: str | Path | None = None,
) -> None:
    """Train, and leave the run in ``out``: ``run.json``, ``checkpoints/``, ``tensorboard/``, and the trial's directory.

    Where the split marks no validation conditions, ``training.trial`` trains twice: a trial holds out some of the
    training conditions and chooses with them the network share and the number of steps, then a model is trained on all
    conditions with what was chosen.

    Called again with the same arguments it goes on from the last whole checkpoint, and sees every set that was left
    exactly once. With ``compute.devices`` above 1 it starts the other processes itself, unless ``torchrun`` or Slurm
    has started them. The files and directories are those of :func:`bionemo.scale.pretrain`. An InputError says that the
    arguments do not fit each other, the data, or the run that ``out`` already holds.
    """
    chosen = None
    if training.trial and model.start is Start.LINEAR and model.network_share is None:
        chosen = _trial(Path(store), Path(split), Path(out), model, compute, training, embeddings)
    if chosen is not None:
        model = replace(model, network_share=chosen["network_share"])
        # Who asks for more steps than the trial had goes on beyond what it chose.
        if training.max_steps <= chosen["of_steps"]:
            training = replace(training, max_steps=max(chosen["steps"], training.warmup_steps + 1))
    train(open_training(store, split, model, compute, training, embeddings), out, trial=chosen)


def _trial(
    store: Path,
    split: Path,
    out: Path,
    model: ModelConfig,
    compute: ComputeConfig,
    training: TrainingConfig,
    embeddings: str | Path | None,
) -> dict | None:
    """Choose the network share and the number of steps; return None where the split chooses, or nothing can.

    What is returned is ``network_share``, ``steps``, the ``score`` that chose them, ``of_steps``, how many the trial
    had, and ``held_out``, context -> perturbations that it held out.
    """
    run = RunDirectory(out)
    if run.last_checkpoint() is not None:
        return run.read().trial
    cells, asked = CellStore.open(store), Split.from_toml(split)
    parts = cells.parts(asked, training.control_roles)
    if (parts == "val").any():
        return None
    observed = {
        (str(cells.contexts[row["context"]]), str(cells.perturbations[row["perturbation"]])) for row in cells.runs
    }
    inner = inner_split(asked, observed, cells.control)
    if inner is None:
        return None
    held_out = {context: sorted(lists["val"]) for context, lists in inner.fewshot.items() if lists.get("val")}
    if rank_zero_only.rank == 0:
        _log.info(
            "%s marks no validation conditions: a trial holds out %d training conditions and chooses with them, which "
            "takes as long as the training after it; training.trial=false leaves it out",
            *(split, sum(map(len, held_out.values()))),
        )
    file = out / TRIAL / "split.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    # Every process writes the same.
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(inner.to_toml("screen", "The validation conditions were drawn from the training conditions."))
    os.replace(partial, file)
    best = train(open_training(store, file, model, compute, training, embeddings), out / TRIAL).best()
    if best is None:
        return None
    if rank_zero_only.rank == 0:
        _log.info(
            "the trial chose %.0f%% of the network and %d steps (score %.3f); now all training conditions",
            *(100 * best.network_share, best.step, best.value),
        )
    chosen = {"network_share": best.network_share, "steps": best.step, "score": best.value}
    return chosen | {"of_steps": training.max_steps, "held_out": held_out}
