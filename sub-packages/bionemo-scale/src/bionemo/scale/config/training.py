"""How a model is trained: batches, steps, optimizer, devices."""

import math
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from bionemo.screens.errors import InputError


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass; parameters and optimizer state are float32 in both."""

    FP32 = "fp32"
    BF16 = "bf16"


MATMUL_PRECISIONS = ("highest", "high", "medium")
"""Torch's names."""
ASYNC_SAVES = ("auto", "on", "off")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of one training run."""

    max_steps: int
    sets_per_batch: int
    """Sets a data-parallel rank takes at once."""
    cells_per_set: int
    accumulate: int = 1
    """Batches a rank takes before each optimizer step."""
    learning_rate: float = 1e-3
    """Peak; reached after ``warmup_steps``, then a cosine down to a tenth."""
    warmup_steps: int = 20
    weight_decay: float = 0.01
    clip_gradient: float = 1.0
    """Largest norm of the whole gradient."""
    average_decay: float = 0.0
    """Decay of the moving average of weights that predictions are made with; 0 for the weights themselves."""
    precision: Precision = Precision.FP32
    matmul_precision: str = "highest"
    """Products of float32 tensors: ``highest``, or ``high`` or ``medium``, which round their factors where the machine
    is faster with that (TF32 on a GPU; bf16 on a CPU that multiplies it)."""
    devices: int = 1
    """Processes on each node: a GPU each, or CPU processes where there is no GPU."""
    nodes: int = 1
    threads: int = 1
    """CPU threads of a process, where there is no GPU. Small models gain nothing from a second one."""
    upload_counts: bool = False
    """Upload cells as the store keeps them and make them dense on the GPU, beside the computation. Same numbers."""
    seed: int = 0
    checkpoint_every: int = 100
    async_save: str = "auto"
    """Write checkpoints in another process while training goes on: ``on``, ``off``, or ``auto``, which is on where
    there is a GPU. What is written is a copy of that step's weights."""
    keep_checkpoints: int = 1
    """Newest checkpoints to keep, beside the one that validated best."""
    validate_every: int = 100
    validation_batches: int = 8
    """Batches of one validation pass; needs conditions marked ``val`` in the split."""
    patience: int = 0
    """Validations without a better one after which training stops; 0 to never stop."""
    log_every: int = 10
    wandb_project: str = ""
    """Weights & Biases project to log to as well; needs its package and an account."""
    profile_steps: int = 0
    """Steps to profile after the third, into the run's ``profile`` directory."""
    separator: str = "+"
    """What joins the perturbations of a combination, or a perturbation and its dose, in a label; ``none`` for labels
    that must not be taken apart."""

    def __post_init__(self):
        try:
            object.__setattr__(self, "precision", Precision(self.precision))
        except ValueError:
            raise InputError(f"precision={self.precision!r} is not one of {', '.join(Precision)}.") from None
        if self.matmul_precision not in MATMUL_PRECISIONS:
            raise InputError(
                f"matmul_precision={self.matmul_precision!r} is not one of {', '.join(MATMUL_PRECISIONS)}."
            )
        if self.async_save not in ASYNC_SAVES:
            raise InputError(f"async_save={self.async_save!r} is not one of {', '.join(ASYNC_SAVES)}.")
        for field in fields(self):
            least = 0 if field.name in ("warmup_steps", "seed", "patience", "profile_steps") else 1
            if field.type is int and getattr(self, field.name) < least:
                raise InputError(f"{field.name}={getattr(self, field.name)} must be at least {least}.")
        for field in fields(self):
            if field.type is float and not 0 <= getattr(self, field.name) < math.inf:
                raise InputError(f"{field.name}={getattr(self, field.name)} must be a number of 0 or more.")
        if self.average_decay >= 1:
            raise InputError(f"average_decay={self.average_decay} must be below 1.")
        if self.warmup_steps >= self.max_steps:
            raise InputError(
                f"warmup_steps={self.warmup_steps} leaves nothing of max_steps={self.max_steps}: lower it."
            )

    @property
    def label_separator(self) -> str:
        """What joins the parts of a label; empty where labels must not be taken apart."""
        return "" if self.separator == "none" else self.separator

    @property
    def world_size(self) -> int:
        """Processes of the whole run."""
        return self.devices * self.nodes

    def saves_beside(self, on_gpu: bool) -> bool:
        """Whether checkpoints are written beside the training."""
        return self.async_save == "on" or (self.async_save == "auto" and on_gpu)

    def is_over(self, step: int, best: int) -> bool:
        """Whether a run whose best validation was that of step ``best`` has waited long enough at ``step``."""
        return bool(self.patience) and step - best >= self.patience * self.validate_every

    def to_dict(self) -> dict:
        """JSON-ready fields."""
        return asdict(self)
