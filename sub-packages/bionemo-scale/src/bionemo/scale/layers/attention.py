"""Let the members of a set attend to each other: both directions, no positions, padding masked.

Axes: N members of a set, B sets, H heads, W width of a head. Key and value may have fewer heads than the query.
"""

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule

MOST_WHOLE = 256
"""Members of a set up to which a CPU attends in bf16 by plain products: its fused kernel takes longer, and torch's own
plain form goes to float32 and back."""


class SetAttention(MegatronModule):
    """A `SetAttention` is Megatron's core attention made of torch's scaled dot product.

    Megatron's own ``DotProductAttention`` forks the CUDA random state on every call, so it cannot run on a CPU.

    Raises
    ------
    ValueError
        The configuration asks for dropout.
    """

    def __init__(self, config, layer_number, attn_mask_type, attention_type, softmax_scale=None, **_megatron_extras):
        super().__init__(config=config)
        if config.attention_dropout:
            raise ValueError("SetAttention has no dropout: set attention_dropout=0")
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query_NBHW: torch.Tensor,
        key_NBHW: torch.Tensor,
        value_NBHW: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **_megatron_extras,
    ) -> torch.Tensor:
        """Attend (Vaswani et al. 2017, "Attention is all you need").

        Parameters
        ----------
        query_NBHW, key_NBHW, value_NBHW
            Megatron's order of axes.
        attention_mask
            bool [B, 1, 1, N], True where a member is padding and must not be attended to; None attends to all.

        Returns
        -------
        torch.Tensor
            [N, B, H * W].
        """
        q_BHNW, k_BHNW, v_BHNW = (part.permute(1, 2, 0, 3) for part in (query_NBHW, key_NBHW, value_NBHW))
        bf16_on_cpu = q_BHNW.device.type == "cpu" and q_BHNW.dtype == torch.bfloat16
        plain = bf16_on_cpu and len(query_NBHW) <= MOST_WHOLE
        if (plain or q_BHNW.is_cuda) and q_BHNW.shape[1] != k_BHNW.shape[1]:
            # Under a mask torch has a fused kernel on CUDA only where there are as many keys as queries.
            k_BHNW, v_BHNW = (
                part.repeat_interleave(q_BHNW.shape[1] // part.shape[1], dim=1) for part in (k_BHNW, v_BHNW)
            )
        if plain:
            scale = q_BHNW.shape[-1] ** -0.5 if self.softmax_scale is None else self.softmax_scale
            scores_BHNN = (scale * q_BHNW) @ k_BHNW.mT
            if attention_mask is not None:
                scores_BHNN = scores_BHNN.masked_fill(attention_mask, -torch.inf)
            attended_BHNW = scores_BHNN.softmax(-1) @ v_BHNW
        else:
            attended_BHNW = F.scaled_dot_product_attention(
                q_BHNW,
                k_BHNW,
                v_BHNW,
                attn_mask=None if attention_mask is None else ~attention_mask,
                scale=self.softmax_scale,
                enable_gqa=q_BHNW.shape[1] != k_BHNW.shape[1],
            )
        return attended_BHNW.permute(2, 0, 1, 3).flatten(2)
