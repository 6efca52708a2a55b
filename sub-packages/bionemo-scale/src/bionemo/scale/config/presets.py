"""Name the settings that commands start from: sizes of models, and how a model of each size is trained."""

from collections.abc import Mapping
from typing import Any

from bionemo.scale.config.compute import ComputeConfig, Precision
from bionemo.scale.config.model import Evidence, ModelConfig, Pairing
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.config.tuning import TuningConfig

Recipe = Mapping[str, Any]
"""Name of a section of settings (``model``, ``compute``, ``training``, ...) -> its configuration."""

_LARGE: dict[str, Any] = dict(
    hidden_size=1024,
    num_attention_heads=16,
    num_query_groups=4,
    ffn_hidden_size=3072,
    gene_modules=32,
    gene_module_size=128,
    # An assignment on the CPU in every step, which sets of this size feel.
    pairing=Pairing.NONE,
    evidence=Evidence.ON,
)
MODELS: dict[str, ModelConfig] = {
    "scale_tiny": ModelConfig(
        hidden_size=64,
        num_layers=2,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=192,
        gene_modules=8,
        gene_module_size=32,
        evidence=Evidence.ON,
    ),
    "scale_small": ModelConfig(
        hidden_size=128,
        num_layers=3,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=384,
        gene_modules=8,
        gene_module_size=64,
        evidence=Evidence.ON,
    ),
    "scale_184m": ModelConfig(num_layers=8, **_LARGE),
    "scale_280m": ModelConfig(num_layers=13, **_LARGE),
}
"""Sizes that ``model=NAME`` chooses."""
ABOUT = {
    "scale_tiny": "For one CPU and a few minutes: tutorials, tests, panels of a few hundred genes.",
    "scale_small": "About 3 million weights for 2,000 genes: a screen of thousands of cells, on two CPU cores or one "
    "small GPU.",
    "scale_184m": "The smaller published size, about 184 million weights for 2,000 genes.",
    "scale_280m": "The larger published size, about 280 million weights for 2,000 genes.",
    "full": "All weights move.",
    "frozen_encoder": "All weights move but those of the cell encoder: latents keep their meaning.",
    "low_rank": "Adapters of low rank beside attention and feed-forward layers move, and the tokens of new names.",
}
"""A line about each recipe."""
# Not tuned.
_LARGE_TRAINING = TrainingConfig(
    max_steps=50_000,
    sets_per_batch=16,
    cells_per_set=256,
    learning_rate=3e-4,
    warmup_steps=1_000,
    weight_decay=0.05,
    average_decay=0.999,
    checkpoint_every=1_000,
    validate_every=1_000,
)


def _pretraining(model: str, training: TrainingConfig, **compute: Any) -> Recipe:
    return {"model": MODELS[model], "compute": ComputeConfig(**compute), "training": training}


def _finetuning(learning_rate: float, **tuning: Any) -> Recipe:
    training = TrainingConfig(max_steps=400, sets_per_batch=16, cells_per_set=32, learning_rate=learning_rate)
    return {"training": training, "compute": ComputeConfig(), "tuning": TuningConfig(**tuning)}


PRETRAINING: dict[str, Recipe] = {
    "scale_tiny": _pretraining(
        "scale_tiny", TrainingConfig(max_steps=800, sets_per_batch=16, cells_per_set=32, learning_rate=2e-3)
    ),
    "scale_small": _pretraining(
        "scale_small", TrainingConfig(max_steps=600, sets_per_batch=16, cells_per_set=32), threads=2
    ),
    "scale_184m": _pretraining("scale_184m", _LARGE_TRAINING, precision=Precision.BF16),
    "scale_280m": _pretraining("scale_280m", _LARGE_TRAINING, precision=Precision.BF16),
}
"""How a model of each size is trained from nothing."""
FINETUNING: dict[str, Recipe] = {
    "full": _finetuning(5e-4),
    "frozen_encoder": _finetuning(5e-4, freeze_encoder=True),
    "low_rank": _finetuning(2e-3, method="low_rank"),
}
"""How a trained model is trained further, by the weights that move; the model is that of the run it starts from."""
