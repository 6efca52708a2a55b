"""Megatron's divided linear layers, made plainly where their weights lie whole in one process.

Megatron's own forward pass goes through an autograd function in Python that prepares for communication, and makes the
gradient of its input whether or not anything asks for it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import layers

Answer = tuple[torch.Tensor, torch.Tensor | None]
"""What a layer makes of its input, and its bias where that is left to the caller to add."""


class ColumnParallelLinear(layers.ColumnParallelLinear):
    """``y = W x + b`` with W divided over tensor-parallel ranks by its rows."""

    def forward(self, input_: torch.Tensor, *args: Any, **kwargs: Any) -> Answer:
        """Apply the layer, [..., in] to [..., out]."""
        return _plainly(self, input_) if _whole(self) else super().forward(input_, *args, **kwargs)


class RowParallelLinear(layers.RowParallelLinear):
    """``y = W x + b`` with W divided over tensor-parallel ranks by its columns."""

    def forward(self, input_: torch.Tensor) -> Answer:
        """Apply the layer, [..., in] to [..., out]."""
        return _plainly(self, input_) if _whole(self) else super().forward(input_)


def _whole(layer: Any) -> bool:
    return layer.config.tensor_model_parallel_size == 1


def _plainly(layer: Any, input_: torch.Tensor) -> Answer:
    if layer.skip_bias_add:
        return F.linear(input_, layer.weight), layer.bias
    return F.linear(input_, layer.weight, layer.bias), None
