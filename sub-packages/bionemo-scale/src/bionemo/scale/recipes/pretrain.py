"""Pretraining recipes, one a model size."""

import nemo_run as run

from bionemo.scale.recipes import models, parsing  # noqa: F401
from bionemo.scale.training.pretrain import pretrain
from bionemo.scale.training.settings import TrainingConfig


@run.cli.factory(target=pretrain, name="scale_tiny")
def scale_tiny() -> run.Partial:
    """A model for one CPU and a few minutes: tutorials, tests, panels of a few hundred genes."""
    return run.Partial(
        pretrain,
        model=models.scale_tiny(),
        training=run.Config(TrainingConfig, max_steps=800, sets_per_batch=16, cells_per_set=32, learning_rate=2e-3),
    )


@run.cli.factory(target=pretrain, name="scale_small")
def scale_small() -> run.Partial:
    """About 3 million weights for 2,000 genes: a screen of thousands of cells, on two CPU cores or one small GPU."""
    return run.Partial(
        pretrain,
        model=models.scale_small(),
        training=run.Config(TrainingConfig, max_steps=600, sets_per_batch=16, cells_per_set=32, threads=2),
    )


@run.cli.factory(target=pretrain, name="scale_184m")
def scale_184m() -> run.Partial:
    """The smaller published size, about 184 million weights for 2,000 genes; its training settings are not tuned."""
    return run.Partial(pretrain, model=models.scale_184m(), training=_large())


@run.cli.factory(target=pretrain, name="scale_280m")
def scale_280m() -> run.Partial:
    """The larger published size, about 280 million weights for 2,000 genes; its training settings are not tuned."""
    return run.Partial(pretrain, model=models.scale_280m(), training=_large())


def _large() -> run.Config[TrainingConfig]:
    return run.Config(
        TrainingConfig,
        max_steps=50_000,
        sets_per_batch=16,
        cells_per_set=256,
        learning_rate=3e-4,
        warmup_steps=1_000,
        weight_decay=0.05,
        average_decay=0.999,
        precision="bf16",
        checkpoint_every=1_000,
        validate_every=1_000,
    )


RECIPES = {recipe.__name__: recipe for recipe in (scale_tiny, scale_small, scale_184m, scale_280m)}
