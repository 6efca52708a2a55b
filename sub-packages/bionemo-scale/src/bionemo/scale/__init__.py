"""SCALE predicts how populations of cells respond to a perturbation; this is its face in Python.

    import bionemo.scale as scale

    scale.pretrain("store", "split.toml", "run", recipe="scale_tiny", max_steps=400)
    model = scale.load("run")
    predicted = model.predict(adata, perturbations=["TP53"])  # AnnData to AnnData

Importing it is light: torch, Megatron and NeMo are imported when a function first needs them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bionemo.scale.environment import name_an_architecture
from bionemo.scale.quiet import hush

if TYPE_CHECKING:
    from bionemo.scale.inference.trained_model import TrainedModel

__all__ = ["finetune", "load", "pretrain"]

name_an_architecture()


def load(checkpoint: str | Path, device: str = "auto") -> "TrainedModel":
    """Load a trained model into memory, from where it predicts again and again without opening a file.

    Megatron's layers need a process group of torch.distributed. Where there is one, all of its processes call this
    together, and each gets the whole model. Where there is none, this makes one of this process alone.

    Parameters
    ----------
    checkpoint
        Directory of a run, whose best checkpoint is taken, or one of its ``checkpoints/step=N``.
    device
        ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.

    Raises
    ------
    InputError
        There is no such checkpoint, it is damaged, or this process trains a model that is split over several.
    """
    hush()
    from bionemo.scale.inference.trained_model import TrainedModel

    return TrainedModel.load(checkpoint, device)


def pretrain(
    store: str | Path,
    split: str | Path,
    out: str | Path,
    *,
    recipe: str = "scale_tiny",
    embeddings: str | Path | None = None,
    **settings: Any,
) -> None:
    """Train a model, or go on with a run that was interrupted in ``out``.

    Parameters
    ----------
    store
        Directory that ``prepare`` wrote.
    split
        TOML file of held-out conditions.
    out
        Directory of the run.
    recipe
        Model and training settings to start from: ``scale_tiny``, ``scale_small``, ``scale_184m`` or ``scale_280m``.
    embeddings
        Parquet or npz file of vectors of the perturbations, for a model that takes them.
    settings
        Any setting of the model, of how it is computed or of its training, by name: ``hidden_size=128``,
        ``max_steps=1000``, ``devices=2``.

    Raises
    ------
    InputError
        There is no such setting, or the arguments do not fit each other, the data, or the run that ``out`` holds.
    """
    hush()
    from bionemo.scale.config.agreement import check_agreement
    from bionemo.scale.config.overrides import chosen, with_settings
    from bionemo.scale.config.presets import PRETRAINING
    from bionemo.scale.training.pretrain import pretrain as run

    sections = with_settings(chosen(recipe, PRETRAINING), settings)
    check_agreement(**sections)
    run(store, split, out, **sections, embeddings=embeddings)


def finetune(
    start: str | Path,
    store: str | Path,
    split: str | Path,
    out: str | Path,
    *,
    recipe: str = "full",
    embeddings: str | Path | None = None,
    **settings: Any,
) -> None:
    """Train a trained model further, on new data with their contexts and perturbations.

    Parameters
    ----------
    start
        Directory of the run to start from, or one of its ``checkpoints/step=N``.
    store, split, out, embeddings
        As in :func:`pretrain`, of the new data; ``embeddings`` holds the vectors of the first training too.
    recipe
        ``full``, ``frozen_encoder`` or ``low_rank``.
    settings
        Any setting of how it is computed, trained or tuned, by name: ``max_steps=200``, ``rank=4``.

    Raises
    ------
    InputError
        There is no such setting, or the arguments do not fit each other, the data, the trained model, or the run that
        ``out`` holds.
    """
    hush()
    from bionemo.scale.config.overrides import chosen, with_settings
    from bionemo.scale.config.presets import FINETUNING
    from bionemo.scale.finetuning.finetune import finetune as run

    sections = with_settings(chosen(recipe, FINETUNING), settings)
    run(start, store, split, out, **sections, embeddings=embeddings)
