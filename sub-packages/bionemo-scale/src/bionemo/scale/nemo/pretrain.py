"""Pretraining recipes: each size of :mod:`models <bionemo.scale.config.presets>` with how it is trained."""

from collections.abc import Callable

import nemo_run as run

from bionemo.scale.config.presets import MODELS
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.nemo import parsing  # noqa: F401
from bionemo.scale.training.pretrain import pretrain

# Not tuned.
_LARGE = dict(
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
TRAINING = {
    "scale_tiny": dict(max_steps=800, sets_per_batch=16, cells_per_set=32, learning_rate=2e-3),
    "scale_small": dict(max_steps=600, sets_per_batch=16, cells_per_set=32, threads=2),
    "scale_184m": _LARGE,
    "scale_280m": _LARGE,
}
"""How a model of each size is trained."""


def _recipe(size: str) -> Callable[[], run.Partial]:
    def recipe() -> run.Partial:
        return run.Partial(pretrain, model=MODELS[size](), training=run.Config(TrainingConfig, **TRAINING[size]))

    recipe.__name__ = size
    recipe.__doc__ = MODELS[size].__doc__
    return run.cli.factory(target=pretrain, name=size)(recipe)


RECIPES = {size: _recipe(size) for size in MODELS}
