"""Attention among the members of a set: both directions, no positions, padding masked."""

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule

MOST_WHOLE = 256
"""Members of a set up to which a CPU keeps all their scores: its fused kernel is several times slower than that."""

MOST_BY_ELEMENTS = 64
"""Members times width of a head up to which a CPU is faster without matrix products."""


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
        attend = F.scaled_dot_product_attention
        if q.device.type == "cpu" and q.shape[2] <= MOST_WHOLE:
            small = attention_mask is None and q.shape[2] * q.shape[3] <= MOST_BY_ELEMENTS
            attend = _by_elements if small else _with_all_scores
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
        # Added, not filled in: a gradient needs no mask where the softmax is 0.
        scores = scores + torch.zeros_like(attn_mask, dtype=scores.dtype).masked_fill_(~attn_mask, float("-inf"))
    return scores.softmax(-1) @ v


def _by_elements(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: torch.Tensor | None,
    scale: float | None,
    enable_gqa: bool,
) -> torch.Tensor:
    """The same without a mask, by element-wise operations over all B sets at once.

    Where members and heads are few and narrow, products of their small matrices take several times as long.
    """
    assert attn_mask is None
    if enable_gqa:
        k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    q, k, v = (tensor.permute(2, 1, 3, 0).contiguous() for tensor in (q, k, v))  # [S, heads, width, B]
    attended = []
    for member in q:
        weights = (member * k).sum(2).softmax(0)
        attended.append((weights[:, :, None] * v).sum(0))
    return torch.stack(attended).permute(3, 1, 0, 2)
