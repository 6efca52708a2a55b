"""Finetuning recipes, one a choice of the weights that move; the model is that of the run they start from."""

import nemo_run as run

from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.finetuning.finetune import finetune
from bionemo.scale.model.tuning import Placement, TuningConfig
from bionemo.scale.nemo import parsing  # noqa: F401


@run.cli.factory(target=finetune, name="full")
def full() -> run.Partial:
    """All weights."""
    return _recipe(learning_rate=5e-4)


@run.cli.factory(target=finetune, name="frozen_encoder")
def frozen_encoder() -> run.Partial:
    """All weights but those of the cell encoder: latents keep their meaning."""
    return _recipe(learning_rate=5e-4, freeze_encoder=True)


@run.cli.factory(target=finetune, name="low_rank")
def low_rank() -> run.Partial:
    """Adapters of low rank beside attention and feed-forward layers, and the tokens of new names."""
    return _recipe(learning_rate=2e-3, method="low_rank")


def _recipe(learning_rate: float, **tuning) -> run.Partial:
    return run.Partial(
        finetune,
        training=run.Config(
            TrainingConfig, max_steps=400, sets_per_batch=16, cells_per_set=32, learning_rate=learning_rate
        ),
        tuning=run.Config(TuningConfig, **tuning),
        model=run.Config(Placement),
    )


FINETUNES = {recipe.__name__: recipe for recipe in (full, frozen_encoder, low_rank)}
