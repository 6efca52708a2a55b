"""`TrainingConfig` says how a model is trained: batches, steps, optimizer, checkpoints."""

from dataclasses import dataclass
from enum import StrEnum

from bionemo.scale.config.checking import check_fields
from bionemo.screens.controls import ControlRoles, Controls
from bionemo.screens.errors import InputError


class AsyncSave(StrEnum):
    """Whether another process writes checkpoints while training goes on; ``auto`` is on where there is a GPU."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


MAY_CHANGE = {
    *("max_steps", "sets_per_batch", "checkpoint_every", "keep_checkpoints", "validate_every", "validation_batches"),
    *("patience", "log_every", "profile_steps", "wandb_project", "async_save"),
}
"""Settings that may differ between a run and its continuation: with the others as they were, the sets of a step stay
the same cells, as long as ``sets_per_batch`` times the data-parallel ranks does."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How one run is trained."""

    max_steps: int
    """Optimizer steps in all."""
    sets_per_batch: int
    """Sets a data-parallel rank takes at once."""
    cells_per_set: int
    """Cells S of a set; a condition of fewer cells gives a shorter one."""
    accumulate: int = 1
    """Batches a rank takes before each optimizer step."""
    learning_rate: float = 1e-3
    """Peak; reached after ``warmup_steps``, then a cosine down to a tenth."""
    warmup_steps: int = 20
    """Steps in which the learning rate rises to its peak."""
    weight_decay: float = 0.01
    """Decay of AdamW."""
    clip_gradient: float = 1.0
    """Largest norm of the whole gradient."""
    average_decay: float = 0.0
    """Decay of the moving average of weights that predictions are made with; 0 for the weights themselves."""
    trial: bool = True
    """Where the split marks no validation conditions, train twice: a trial holds out a tenth of the training conditions
    (four at least, or two or three where no more can be) and chooses the network share and the number of steps, then a
    model is trained on all."""
    seed: int = 0
    """Seed of the weights, the sets and the noise."""
    controls: Controls = Controls.INDEPENDENT
    """Which control cells are trained on, and which shifts are measured against: ``independent`` ones, parts of the
    control cells that have none in common, or ``shared``, all for everything, as published protocols do."""
    control_rotation: int = 0
    """The roles of independent control cells are moved on by so many parts, 0 to 2. Give each of three seeds another
    number."""
    checkpoint_every: int = 100
    """Steps from one checkpoint to the next."""
    async_save: AsyncSave = AsyncSave.AUTO
    """Write checkpoints in another process while training goes on: ``on``, ``off``, or ``auto``, which is on where
    there is a GPU. What is written is a copy of that step's weights."""
    keep_checkpoints: int = 1
    """Newest checkpoints to keep, beside the one that validated best."""
    validate_every: int = 100
    """Steps from one validation to the next."""
    validation_batches: int = 8
    """Batches of one validation pass; needs conditions marked ``val`` in the split."""
    patience: int = 0
    """Validations without a better one after which training stops; 0 to never stop."""
    log_every: int = 10
    """Steps from one line of the log to the next."""
    wandb_project: str = ""
    """Weights & Biases project to log to as well; needs its package and an account."""
    profile_steps: int = 0
    """Steps to profile after the third, into the run's ``profile`` directory."""
    separator: str = "+"
    """What joins the perturbations of a combination, or a perturbation and its dose, in a label; ``none`` for labels
    that must not be taken apart."""

    def __post_init__(self):
        check_fields(self, may_be_zero=("warmup_steps", "seed", "control_rotation", "patience", "profile_steps"))
        _ = self.control_roles
        if self.average_decay >= 1:
            raise InputError(f"average_decay={self.average_decay} must be below 1.")
        if self.warmup_steps >= self.max_steps:
            raise InputError(
                f"warmup_steps={self.warmup_steps} leaves nothing of max_steps={self.max_steps}: lower it."
            )

    @property
    def control_roles(self) -> ControlRoles:
        """Return which control cells have which role."""
        return ControlRoles.from_dict({"controls": self.controls, "rotation": self.control_rotation}, "training")

    @property
    def label_separator(self) -> str:
        """Return what joins the parts of a label; empty where labels must not be taken apart."""
        return "" if self.separator == "none" else self.separator

    def saves_beside(self, on_gpu: bool) -> bool:
        """Tell whether checkpoints are written beside the training."""
        return self.async_save is AsyncSave.ON or (self.async_save is AsyncSave.AUTO and on_gpu)

    def is_over(self, step: int, best: int) -> bool:
        """Tell whether a run whose best validation was that of step ``best`` has waited long enough at ``step``."""
        return bool(self.patience) and step - best >= self.patience * self.validate_every
