"""Latents to expression.

Shapes: B sets, S cells, G genes, D latent.
"""

import math
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.module import MegatronModule

from bionemo.scale.model.config import GENE_MULTIPLE, Head, ScaleConfig
from bionemo.scale.model.specs import LayerSpec
from bionemo.scale.model.vocabulary import Vocabulary


class Decoder(MegatronModule):
    """A SwiGLU layer and a projection to genes, ``h(z)``, each cell on its own."""

    def __init__(self, config: ScaleConfig, spec: LayerSpec, vocabulary: Vocabulary):
        transformer = config.transformer()
        super().__init__(config=transformer)
        self.head, self.n_genes = config.head, len(vocabulary.genes)
        # log1p(target_sum) is what a cell would show that spent all its counts on one gene.
        self.ceiling = math.log1p(vocabulary.target_sum) if vocabulary.kind == "counts" else math.inf
        self.norm = spec.norm(config=transformer, hidden_size=config.hidden_size, eps=transformer.layernorm_epsilon)
        self.mlp = MLP(transformer, spec.mlp, ffn_hidden_size=config.ffn_hidden_size)
        to_genes: dict[str, Any] = dict(config=transformer, init_method=transformer.init_method)
        # The columns beyond G are dropped.
        columns = math.ceil(self.n_genes / GENE_MULTIPLE) * GENE_MULTIPLE
        self.to_genes = ColumnParallelLinear(config.hidden_size, columns, bias=True, gather_output=True, **to_genes)

    def forward(self, z_BSD: torch.Tensor) -> torch.Tensor:
        """Decode [B, S, D] to log1p expression less the mean of each gene, [B, S, G]."""
        change, _ = self.mlp(self.norm(z_BSD))
        x_BSG, _ = self.to_genes(z_BSD + change)
        return x_BSG[..., : self.n_genes]

    def predict(
        self, z1_BSD: torch.Tensor, z0_BSD: torch.Tensor, x0_BSG: torch.Tensor, gene_mean_G: torch.Tensor
    ) -> torch.Tensor:
        """Expression of the predicted cells, log1p [B, S, G].

        The residual head answers ``x0 + h(z1) - h(z0)``: what the latent cannot hold of a cell, its own noise and its
        zeros, is taken from the control cell. The regression head answers ``h(z1)``.
        """
        x1_BSG = self(z1_BSD)
        x1_BSG = x0_BSG + x1_BSG - self(z0_BSD) if self.head is Head.RESIDUAL else x1_BSG + gene_mean_G
        return x1_BSG.clamp(0, self.ceiling)
