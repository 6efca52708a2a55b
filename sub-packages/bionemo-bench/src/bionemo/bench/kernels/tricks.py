"""List the forms of the installed code that were written for a CPU's speed, and how to do without each."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from unittest.mock import patch

import torch

from bionemo.scale.layers import attention, linear
from bionemo.scale.model.cell_encoder import GeneModuleEncoder

GAIN = 1.1
"""A trick is worth its lines where a step takes at least so many times as long without it."""


@dataclass(frozen=True)
class Trick:
    """A `Trick` is a faster form of something that a plain form says more simply."""

    name: str
    plainly: Callable[[], AbstractContextManager]
    """Makes models compute in the plain form while it lasts."""


def _every_cell(encoder: GeneModuleEncoder, x_BSG: torch.Tensor, trained: int | None = None) -> torch.Tensor:
    """Encode all cells with a gradient."""
    return _ENCODE(encoder, x_BSG)


_ENCODE = GeneModuleEncoder.forward

TRICKS = (
    Trick(
        "linear layers that lie whole are torch's own, not Megatron's autograd function",
        lambda: patch.object(linear, "_whole", lambda _layer: False),
    ),
    Trick(
        "products without a gradient are oneDNN's, not MKL's",
        lambda: patch.object(linear, "_ONEDNN", None),
    ),
    Trick(
        "small sets attend in bf16 by plain products, not the fused kernel",
        lambda: patch.object(attention, "MOST_WHOLE", 0),
    ),
    Trick(
        "cells that are not reconstructed are encoded without a gradient",
        lambda: patch.object(GeneModuleEncoder, "forward", _every_cell),
    ),
)
