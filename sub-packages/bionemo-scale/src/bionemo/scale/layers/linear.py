"""Make Megatron's divided linear layers plainly where their weights lie whole in one process.

Megatron's own forward pass goes through an autograd function in Python that prepares for communication, and makes the
gradient of its input whether or not anything asks for it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import layers

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None

Answer = tuple[torch.Tensor, torch.Tensor | None]
"""What a layer makes of its input, and its bias where that is left to the caller to add."""


class ColumnParallelLinear(layers.ColumnParallelLinear):
    """A `ColumnParallelLinear` is ``y = W x + b`` with W divided over tensor-parallel ranks by its rows."""

    def forward(self, input_: torch.Tensor, *args: Any, **kwargs: Any) -> Answer:
        """Apply the layer, [..., in] to [..., out]."""
        return _plainly(self, input_) if _whole(self) else super().forward(input_, *args, **kwargs)


class RowParallelLinear(layers.RowParallelLinear):
    """A `RowParallelLinear` is ``y = W x + b`` with W divided over tensor-parallel ranks by its columns."""

    def forward(self, input_: torch.Tensor) -> Answer:
        """Apply the layer, [..., in] to [..., out]."""
        return _plainly(self, input_) if _whole(self) else super().forward(input_)


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``x W' + b``, [..., in] to [..., out], as torch's linear.

    Torch leaves float32 on a CPU to MKL, which takes twice as long as oneDNN on processors that are not Intel's. So
    where no gradient is asked for, oneDNN is called, as torch's own compiler does.
    """
    if _ONEDNN is None or torch.is_grad_enabled() or x.dtype != torch.float32 or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    return _ONEDNN(x, weight, bias, "none", [], "")


def _whole(layer: Any) -> bool:
    return layer.config.tensor_model_parallel_size == 1


def _plainly(layer: Any, input_: torch.Tensor) -> Answer:
    if layer.skip_bias_add:
        return product(input_, layer.weight), layer.bias
    return product(input_, layer.weight, layer.bias), None
