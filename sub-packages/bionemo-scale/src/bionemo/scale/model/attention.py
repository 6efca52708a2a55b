"""Attention among the members of a set: both directions, no positions, padding masked."""

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule

MOST_WHOLE = 256
"""Members of a set up to which a CPU keeps all their scores: its fused kernel is several times slower than that."""


class SetAttention(MegatronModule):
    """Megatron core attention on torch's scaled dot product: flash on a GPU; on a CPU fused, or whole for small sets.

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
        whole = q.device.type == "cpu" and q.shape[2] <= MOST_WHOLE
        attend = _with_all_scores if whole else F.scaled_dot_product_attention
        attended = attend(
            q,
            k,
            v,
            attn_mask=None if attention_mask is None else ~attention_mask,
            scale=self.softmax_scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return attended.permute(2, 0, 1, 3).flatten(2)


def _with_all_scores(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: torch.Tensor | None,
    scale: float | None,
    enable_gqa: bool,
) -> torch.Tensor:
    """Scaled dot product attention, [B, heads, S, width], as torch defines it."""
    if enable_gqa:
        k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    return scores.softmax(-1) @ v
