"""Which weights of a trained model a finetuning moves."""

import math
from dataclasses import dataclass
from enum import StrEnum

from bionemo.scale.config.checking import check_fields
from bionemo.screens.errors import InputError


class Method(StrEnum):
    """All weights, or adapters of low rank beside the attention and feed-forward layers."""

    FULL = "full"
    LOW_RANK = "low_rank"


class Genes(StrEnum):
    """Which genes the new data must have: the model's, or so many of them that the others can be learnt anew."""

    SAME = "same"
    SHARED = "shared"


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Which weights a finetuning moves, and the share of the network."""

    method: Method = Method.FULL
    rank: int = 8
    """Rank of the adapters."""
    alpha: float = 16.0
    """What an adapter adds is multiplied by ``alpha / rank``."""
    freeze_encoder: bool = False
    """Keep the cell encoder, and with it the latents, as they are."""
    genes: Genes = Genes.SAME
    """``same`` refuses data with other genes than the model's. ``shared`` takes the genes of the data: those that the
    model knows keep their weights, at least half of its own, and the others begin with none."""
    network_share: float | None = None
    """As ``model.network_share``; that of the run that finetuning starts from where not given."""

    def __post_init__(self):
        if not 0 < self.alpha < math.inf:
            raise InputError(f"alpha={self.alpha} must be a number above 0.")
        check_fields(self)
