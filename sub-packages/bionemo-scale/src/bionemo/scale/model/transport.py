"""Transport latents: g says where the cells of a set end, given where they are at time t.

Axes: B sets, S cells, D latent.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule
from torch import nn

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import ModelConfig, Prediction
from bionemo.scale.layers.linear import ColumnParallelLinear
from bionemo.scale.layers.specs import LayerSpec
from bionemo.scale.layers.transformer import transformer_config
from bionemo.scale.model.blocks import LlamaStack, Modulation


class TimeEmbedding(nn.Module):
    """A `TimeEmbedding` puts sinusoids of t in [0, 1] (Vaswani et al. 2017) through a two-layer network."""

    def __init__(self, width: int):
        super().__init__()
        self.frequencies: int = width // 2
        self.inner = nn.Linear(2 * self.frequencies, width)
        self.outer = nn.Linear(width, width)

    def forward(self, t_B: torch.Tensor) -> torch.Tensor:
        """Embed times [B] to [B, D]."""
        steps = torch.arange(self.frequencies, device=t_B.device, dtype=torch.float32)
        angles_BF = 1000.0 * t_B.float()[:, None] * torch.exp(-math.log(10_000.0) * steps / self.frequencies)
        waves_BF = torch.cat([angles_BF.cos(), angles_BF.sin()], dim=-1).to(self.inner.weight.dtype)
        return self.outer(F.silu(self.inner(waves_BF)))


class EndpointTransport(MegatronModule):
    """An `EndpointTransport` is ``z1_hat = g(z_t, t, C, z0)``: LLaMA blocks over cells, conditioned by adaLN-zero.

    The answer is ``z0`` plus a change that starts at zero: an untrained model leaves the control cells as they are.
    Where the configuration asks for velocities, the network's answer is ``v_hat`` instead, and the endpoint is
    ``z_t + (1 - t) v_hat``.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, spec: LayerSpec):
        transformer = transformer_config(config, compute)
        super().__init__(config=transformer)
        width = config.hidden_size
        self.prediction = config.prediction
        linear: dict[str, Any] = dict(config=transformer, bias=False, gather_output=True)
        self.time = TimeEmbedding(width)
        enter: dict[str, Any] = linear | {"init_method": transformer.init_method}
        self.enter = ColumnParallelLinear(2 * width, width, **enter)
        self.blocks = LlamaStack(
            transformer_config(config, compute, in_blocks=True),
            spec,
            conditioned=True,
            recompute=compute.recompute,
            compiled=compute.compile,
        )
        self.modulation = Modulation(transformer, parts=2)
        self.leave = ColumnParallelLinear(width, width, init_method=nn.init.zeros_, **linear)

    def forward(
        self,
        z_t_BSD: torch.Tensor,
        t_B: torch.Tensor,
        condition_BD: torch.Tensor,
        z0_BSD: torch.Tensor,
        mask_BS: torch.Tensor | None,
    ) -> torch.Tensor:
        """Predict the endpoint.

        Parameters
        ----------
        z_t_BSD
            Latents at time t, [B, S, D].
        t_B
            Times in [0, 1], [B].
        condition_BD
            Encoded condition [B, D].
        z0_BSD
            Latents of the control cells [B, S, D], given whatever the source is.
        mask_BS
            bool [B, S], True where a cell is there; padding is neither attended to nor changed by others. None where
            every cell is there: torch's flash kernels take no mask.

        Returns
        -------
        torch.Tensor
            [B, S, D].
        """
        condition_BD = condition_BD + self.time(t_B)
        padding = None
        if mask_BS is not None:
            # An empty set may attend to itself: a row that is all masked would turn into NaN.
            padding = (~mask_BS & mask_BS.any(1, keepdim=True))[:, None, None, :]
        h_BSD, _ = self.enter(torch.cat([z_t_BSD, z0_BSD], dim=-1))
        h_SBD = self.blocks(h_BSD.transpose(0, 1).contiguous(), padding, condition_BD)
        shift_1BD, scale_1BD = self.modulation(condition_BD)
        change_SBD, _ = self.leave(h_SBD * (1 + scale_1BD) + shift_1BD)
        change_BSD = change_SBD.transpose(0, 1)
        if self.prediction is Prediction.VELOCITY:
            return z_t_BSD + (1 - t_B)[:, None, None].to(change_BSD.dtype) * change_BSD
        return z0_BSD + change_BSD
