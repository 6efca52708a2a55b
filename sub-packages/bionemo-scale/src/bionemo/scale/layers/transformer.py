"""Configure Megatron's blocks from what the model is and how it is computed."""

from typing import Any

import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig

from bionemo.scale.config.compute import ComputeConfig, Fp8
from bionemo.scale.config.model import ModelConfig

_FP8_RECIPES = {Fp8.DELAYED: "delayed", Fp8.CURRENT: "tensorwise", Fp8.MXFP8: "mxfp8"}
"""Megatron's names."""


def transformer_config(
    model: ModelConfig,
    compute: ComputeConfig,
    *,
    width: int | None = None,
    layers: int | None = None,
    in_blocks: bool = False,
) -> TransformerConfig:
    """Configure LLaMA blocks for Megatron: RMSNorm, SwiGLU, grouped-query attention, no bias, no dropout.

    Parameters
    ----------
    model, compute
        What the model is, and how it is computed.
    width
        Width of the blocks; the latent width where not given. The feed-forward width keeps its ratio to it.
    layers
        Number of blocks; ``num_layers`` where not given.
    in_blocks
        For the layers inside of blocks, between which ``sequence_parallel`` splits the members.
    """
    width = width or model.hidden_size
    fp8: dict[str, Any] = {}
    if compute.fp8 is not Fp8.NONE:
        fp8 = dict(fp8="hybrid", fp8_recipe=_FP8_RECIPES[compute.fp8])
    return TransformerConfig(
        num_layers=layers or model.num_layers,
        hidden_size=width,
        ffn_hidden_size=model.feed_forward(width),
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=compute.tensor_parallel,
        sequence_parallel=in_blocks and compute.sequence_parallel,
        use_cpu_initialization=not compute.on_gpu,
        # Fused kernels that need apex or a GPU, and that the local layers do without.
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        **fp8,
    )
