"""Pretraining recipes, one a model size."""

from types import UnionType
from typing import get_args

import nemo_run as run
from nemo_run.cli.cli_parser import type_parser

from bionemo.scale.model.config import CHOICES, ScaleConfig
from bionemo.scale.training.pretrain import pretrain
from bionemo.scale.training.settings import Precision, TrainingConfig

# nemo-run reads no enum from a command line; the configurations turn names into theirs and refuse the others.
for _kind in (*CHOICES, Precision):
    type_parser.register_parser(_kind)(lambda name, _kind: name)


# Nor a setting that may be None.
@type_parser.register_parser(UnionType)  # pyright: ignore[reportArgumentType]
def _optional(text: str, kind) -> object:
    if text.lower() == "none":
        return None
    (given,) = (one for one in get_args(kind) if one is not type(None))
    return given(text)


@run.cli.factory(target=pretrain, name="scale_tiny")
def scale_tiny() -> run.Partial:
    """A model for one CPU and a few minutes: tutorials, tests, panels of a few hundred genes."""
    return run.Partial(
        pretrain,
        model=run.Config(
            ScaleConfig,
            hidden_size=64,
            num_layers=2,
            num_attention_heads=4,
            num_query_groups=2,
            ffn_hidden_size=192,
            gene_modules=8,
            gene_module_size=32,
        ),
        training=run.Config(TrainingConfig, max_steps=800, sets_per_batch=16, cells_per_set=32, learning_rate=2e-3),
    )


@run.cli.factory(target=pretrain, name="scale_small")
def scale_small() -> run.Partial:
    """About 3 million weights for 2,000 genes: a screen of thousands of cells, on two CPU cores or one small GPU."""
    return run.Partial(
        pretrain,
        model=run.Config(
            ScaleConfig,
            hidden_size=128,
            num_layers=3,
            num_attention_heads=4,
            num_query_groups=2,
            ffn_hidden_size=384,
            gene_modules=8,
            gene_module_size=64,
        ),
        training=run.Config(TrainingConfig, max_steps=600, sets_per_batch=16, cells_per_set=32, threads=2),
    )


@run.cli.factory(target=pretrain, name="scale_184m")
def scale_184m() -> run.Partial:
    """The smaller published size, about 184 million weights for 2,000 genes; its training settings are not tuned."""
    return _large(num_layers=8)


@run.cli.factory(target=pretrain, name="scale_280m")
def scale_280m() -> run.Partial:
    """The larger published size, about 280 million weights for 2,000 genes; its training settings are not tuned."""
    return _large(num_layers=13)


def _large(num_layers: int) -> run.Partial:
    return run.Partial(
        pretrain,
        model=run.Config(
            ScaleConfig,
            hidden_size=1024,
            num_layers=num_layers,
            num_attention_heads=16,
            num_query_groups=4,
            ffn_hidden_size=3072,
            gene_modules=32,
            gene_module_size=128,
            # An assignment on the CPU in every step, which sets of this size feel.
            pairing="none",
        ),
        training=run.Config(
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
        ),
    )


RECIPES = {recipe.__name__: recipe for recipe in (scale_tiny, scale_small, scale_184m, scale_280m)}
