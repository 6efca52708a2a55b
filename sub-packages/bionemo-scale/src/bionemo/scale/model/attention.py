"""Attention among the members of a set: both directions, no positions, padding masked."""

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule


class SetAttention(MegatronModule):
    """Megatron core attention on torch's scaled dot product (flash on a GPU, fused on a CPU).

    Megatron's own ``DotProductAttention`` forks the CUDA random state on every call, so it cannot run on a CPU.
    """

    def __init__(self, config, layer_number, attn_mask_type, attention_type, softmax_scale=None, **_megatron_extras):
        super().__init__(config=config)
        if config.attention_dropout:
            raise ValueError("SetAttention has no dropout: set attention_dropout=0")
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **_megatron_extras,
    ) -> torch.Tensor:
        """Attend.

        Parameters
        ----------
        query, key, value
            [S, B, heads, width], Megatron's order.
        attention_mask
            bool [B, 1, 1, S], True where a cell is padding and must not be attended to; None attends to all.

        Returns
        -------
        torch.Tensor
            [S, B, heads * width].
        """
        q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if attention_mask is None else ~attention_mask,
            scale=self.softmax_scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return attended.permute(2, 0, 1, 3).flatten(2)
