"""Stack LLaMA blocks of Megatron layers, with or without adaLN-zero conditioning.

Axes: N members of a set (cells, or gene modules of a cell), B sets, D width; Megatron's order is [N, B, D]. With
sequence parallelism each tensor-parallel rank holds N / TP members between a block's projections.
"""

from copy import copy

import torch
import torch.nn.functional as F
from megatron.core.fp8_utils import get_fp8_context
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.utils.checkpoint import checkpoint

from bionemo.scale.layers.linear import ColumnParallelLinear
from bionemo.scale.layers.specs import LayerSpec


class Modulation(MegatronModule):
    """A `Modulation` gives shift, scale and gate of adaLN-zero (Peebles and Xie 2023, "Scalable diffusion models").

    The projection starts at zero, so a conditioned block starts as the identity.
    """

    def __init__(self, config: TransformerConfig, parts: int):
        super().__init__(config=config)
        self.parts = parts
        # A condition belongs to the whole set: every rank has it.
        whole = copy(config)
        whole.sequence_parallel = False
        self.linear = ColumnParallelLinear(
            config.hidden_size,
            parts * config.hidden_size,
            config=whole,
            init_method=torch.nn.init.zeros_,
            bias=False,
            gather_output=True,
        )

    def forward(self, condition_BD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Project conditions [B, D] to ``parts`` tensors [1, B, D] that broadcast over the members of a set."""
        modulation_1BP, _ = self.linear(F.silu(condition_BD)[None])  # P: the parts, side by side
        if self.config.sequence_parallel:
            # Each rank modulates its own members; the gradient is the sum over all.
            modulation_1BP = copy_to_tensor_model_parallel_region(modulation_1BP)
        return modulation_1BP.chunk(self.parts, dim=-1)


class LlamaBlock(MegatronModule):
    """A `LlamaBlock` is self attention and SwiGLU, each ``h <- h + gate * F(norm(h) * (1 + scale) + shift)``.

    Without a condition, gate is 1 and scale and shift are 0 (Touvron et al. 2023, "LLaMA"; Shazeer 2020, "GLU
    variants").
    """

    def __init__(self, config: TransformerConfig, spec: LayerSpec, layer_number: int, *, conditioned: bool):
        super().__init__(config=config)
        assert config.ffn_hidden_size is not None
        norm = dict(config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        self.modulation = Modulation(config, parts=6) if conditioned else None
        self.attention_norm = spec.norm(**norm)
        self.attention = SelfAttention(
            config, spec.attention, layer_number=layer_number, attn_mask_type=AttnMaskType.no_mask
        )
        self.mlp_norm = spec.norm(**norm)
        self.mlp = MLP(config, spec.mlp, ffn_hidden_size=config.ffn_hidden_size)

    def forward(
        self, h_NBD: torch.Tensor, padding: torch.Tensor | None = None, condition_BD: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Apply the block; ``padding`` is bool [B, 1, 1, N], True where masked."""
        if self.modulation is None:
            attended, _ = self.attention(self.attention_norm(h_NBD), attention_mask=padding)
            h_NBD = h_NBD + attended
            fed, _ = self.mlp(self.mlp_norm(h_NBD))
            return h_NBD + fed
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(condition_BD)
        attended, _ = self.attention(self.attention_norm(h_NBD) * (1 + scale_a) + shift_a, attention_mask=padding)
        h_NBD = h_NBD + gate_a * attended
        fed, _ = self.mlp(self.mlp_norm(h_NBD) * (1 + scale_f) + shift_f)
        return h_NBD + gate_f * fed


class LlamaStack(MegatronModule):
    """A `LlamaStack` is blocks in a row and a last norm.

    The blocks are attributes rather than a ``ModuleList``: Megatron's distributed checkpoint looks for
    ``sharded_state_dict`` on direct children only, and would save a list's tensor-parallel shards as replicas.
    """

    def __init__(
        self,
        config: TransformerConfig,
        spec: LayerSpec,
        *,
        conditioned: bool,
        recompute: bool = False,
        compiled: bool = False,
    ):
        super().__init__(config=config)
        self.recompute = recompute
        for number in range(1, config.num_layers + 1):
            block = LlamaBlock(config, spec, number, conditioned=conditioned)
            if compiled:
                block.compile()
            self.add_module(f"block_{number}", block)
        self.norm = spec.norm(config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)

    def forward(
        self, h_NBD: torch.Tensor, padding: torch.Tensor | None = None, condition_BD: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Apply every block, then the norm, to all N members; see :meth:`LlamaBlock.forward`."""
        if self.config.sequence_parallel:
            h_NBD = scatter_to_sequence_parallel_region(h_NBD)
        # One region for all blocks: Transformer Engine updates the maxima of its delayed scaling whenever one ends.
        with get_fp8_context(self.config):
            for number in range(1, self.config.num_layers + 1):
                block = self.get_submodule(f"block_{number}")
                if self.recompute and torch.is_grad_enabled():
                    # Torch's own: there is no dropout whose random state Megatron's would have to keep, on CUDA.
                    h_NBD = checkpoint(
                        block, h_NBD, padding, condition_BD, use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    h_NBD = block(h_NBD, padding, condition_BD)
        h_NBD = self.norm(h_NBD)
        if self.config.sequence_parallel:
            # What follows is the same on every rank, and so is its gradient: each takes its part of it.
            h_NBD = gather_from_sequence_parallel_region(h_NBD, tensor_parallel_output_grad=False)
        return h_NBD
