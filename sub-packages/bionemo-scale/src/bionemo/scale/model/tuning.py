"""How a trained model is finetuned: which of its weights move."""

import math
from dataclasses import asdict, dataclass
from enum import StrEnum

from bionemo.scale.config.model import Fp8
from bionemo.scale.model.low_rank import LowRank
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.screens.errors import InputError


class Method(StrEnum):
    """All weights, or adapters of low rank beside the attention and feed-forward layers."""

    FULL = "full"
    LOW_RANK = "low_rank"


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Which weights a finetuning moves."""

    method: Method = Method.FULL
    rank: int = 8
    """Of the adapters."""
    alpha: float = 16.0
    """What an adapter adds is multiplied by ``alpha / rank``."""
    freeze_encoder: bool = False
    """Keep the cell encoder, and with it the latents, as they are."""

    def __post_init__(self):
        try:
            object.__setattr__(self, "method", Method(self.method))
        except ValueError:
            raise InputError(f"method={self.method!r} is not one of {', '.join(Method)}.") from None
        if self.rank < 1:
            raise InputError(f"rank={self.rank} must be at least 1.")
        if not 0 < self.alpha < math.inf:
            raise InputError(f"alpha={self.alpha} must be a number above 0.")

    def to_dict(self) -> dict:
        """JSON-ready fields."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What of a model's configuration may change when it is trained further: how it is computed, and the gate.

    None leaves what the run says that is trained further.
    """

    tensor_parallel: int = 1
    sequence_parallel: bool = False
    layer_spec: str = "auto"
    fp8: Fp8 = Fp8.NONE
    recompute: bool = False
    gate: float | None = None

    def settings(self) -> dict:
        """Fields to change."""
        given = asdict(self)
        if self.gate is None:
            del given["gate"]
        return given


def tune(model: ScaleModel, tuning: dict) -> LowRank | None:
    """Freeze what does not move; add the adapters, if any, and answer them.

    Parameters
    ----------
    model
        Just built, before anything is loaded.
    tuning
        ``RunRecord.tuning``: the fields of :class:`TuningConfig` and, under ``known``, rows that are not new.
    """
    config = TuningConfig(**{name: value for name, value in tuning.items() if name != "known"})
    if config.method is Method.LOW_RANK:
        return LowRank(model, config.rank, config.alpha, tuning["known"], encoder=not config.freeze_encoder)
    if config.freeze_encoder:
        model.encoder.requires_grad_(False)
    return None
