"""Pretraining recipes, one a model size."""

import nemo_run as run
from nemo_run.cli.cli_parser import type_parser

from bionemo.scale.model.config import CHOICES, ScaleConfig
from bionemo.scale.training.pretrain import pretrain
from bionemo.scale.training.settings import Precision, TrainingConfig

# nemo-run reads no enum from a command line; the configurations turn names into theirs and refuse the others.
for _kind in (*CHOICES, Precision):
    type_parser.register_parser(_kind)(lambda name, _kind: name)


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


RECIPES = {"scale_tiny": scale_tiny}
