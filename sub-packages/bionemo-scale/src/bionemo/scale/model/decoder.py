"""Decode latents to expression.

Axes: B sets, S cells, G genes, D latent.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.mappings import (
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.module import MegatronModule

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import GENE_MULTIPLE, Head, ModelConfig
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.flow.likelihood import negative_binomial_loss
from bionemo.scale.layers.linear import ColumnParallelLinear
from bionemo.scale.layers.specs import LayerSpec
from bionemo.scale.layers.transformer import transformer_config


class Decoder(MegatronModule):
    """A `Decoder` is a SwiGLU layer and a projection to genes, ``h(z)``, for each cell on its own."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, spec: LayerSpec, vocabulary: Vocabulary):
        transformer = transformer_config(config, compute)
        super().__init__(config=transformer)
        self.head, self.n_genes = config.head, len(vocabulary.genes)
        # log1p(target_sum) is what a cell would show that spent all its counts on one gene.
        self.ceiling = math.log1p(vocabulary.target_sum) if vocabulary.kind == "counts" else math.inf
        block = transformer_config(config, compute, in_blocks=True)
        self.sequence_parallel = block.sequence_parallel
        self.norm = spec.norm(config=block, hidden_size=config.hidden_size, eps=block.layernorm_epsilon)
        self.mlp = MLP(block, spec.mlp, ffn_hidden_size=config.ffn_hidden_size)
        to_genes: dict[str, Any] = dict(config=transformer, init_method=transformer.init_method)
        # The columns beyond G are dropped.
        columns = math.ceil(self.n_genes / GENE_MULTIPLE) * GENE_MULTIPLE
        self.to_genes = ColumnParallelLinear(config.hidden_size, columns, bias=False, gather_output=True, **to_genes)
        self.gene_bias = torch.nn.Parameter(torch.zeros(self.n_genes))
        self.rates = CountRates(config, compute, vocabulary, columns) if self.head is Head.NEGATIVE_BINOMIAL else None

    def trunk(self, z_BSD: torch.Tensor) -> torch.Tensor:
        """Return what all projections to genes start from, [B, S, D]."""
        if not self.sequence_parallel:
            change, _ = self.mlp(self.norm(z_BSD))
            return z_BSD + change
        # A cell is decoded by itself, so the cells of all sets are one sequence.
        part_ND = scatter_to_sequence_parallel_region(z_BSD.flatten(0, 1))
        change_ND, _ = self.mlp(self.norm(part_ND))
        decoded_ND = gather_from_sequence_parallel_region(part_ND + change_ND, tensor_parallel_output_grad=False)
        return decoded_ND.unflatten(0, z_BSD.shape[:2])

    def forward(self, z_BSD: torch.Tensor) -> torch.Tensor:
        """Decode latents to log1p expression less the mean of each gene, ``h(z) = W trunk(z) + b``, [B, S, G]."""
        return self.project(self.trunk(z_BSD)) + self.gene_bias

    def change(self, z1_BSD: torch.Tensor, z0_BSD: torch.Tensor) -> torch.Tensor:
        """Return ``h(z1) - h(z0) = W (trunk(z1) - trunk(z0))``, [B, S, G]."""
        return self.project(self.trunk(z1_BSD) - self.trunk(z0_BSD))

    def project(self, trunk_BSD: torch.Tensor) -> torch.Tensor:
        """Project trunks, or the difference of two, to genes, ``W trunk``, [B, S, G]."""
        x_BSG, _ = self.to_genes(trunk_BSD)
        return x_BSG[..., : self.n_genes]

    def predict(
        self,
        z1_BSD: torch.Tensor,
        z0_BSD: torch.Tensor,
        start_BSG: torch.Tensor,
        gene_mean_G: torch.Tensor,
        network_share: float = 1.0,
    ) -> torch.Tensor:
        """Return the expression of the predicted cells, log1p [B, S, G].

        The residual head answers ``start + network_share * (h(z1) - h(z0))``: what the latent cannot hold of a cell,
        its own noise and its zeros, is taken from the control cell. The regression head answers ``h(z1)``, the negative
        binomial head ``log1p`` of its rates, which counts are yet to be drawn from.
        """
        if self.rates is not None:
            return self.rates(self.trunk(z1_BSD), gene_mean_G).log1p()
        if self.head is Head.RESIDUAL:
            moved_BSG = torch.add(start_BSG, self.change(z1_BSD, z0_BSD), alpha=network_share)
            return F.hardtanh(moved_BSG, 0, self.ceiling)
        return F.hardtanh(self(z1_BSD) + gene_mean_G, 0, self.ceiling)


class CountRates(MegatronModule):
    """A `CountRates` gives a negative binomial's rate of each gene, with one dispersion a gene (Lopez et al. 2018)."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, vocabulary: Vocabulary, columns: int):
        transformer = transformer_config(config, compute)
        super().__init__(config=transformer)
        self.n_genes, self.target_sum = len(vocabulary.genes), vocabulary.target_sum
        to_rates: dict[str, Any] = dict(config=transformer, init_method=transformer.init_method)
        self.to_rates = ColumnParallelLinear(config.hidden_size, columns, bias=True, gather_output=True, **to_rates)
        self.log_inverse_dispersion = torch.nn.Parameter(torch.zeros(self.n_genes))

    def forward(self, trunk_BSD: torch.Tensor, gene_mean_G: torch.Tensor) -> torch.Tensor:
        """Return the expected counts of a cell whose counts sum to ``target_sum``, [B, S, G]."""
        return self.logarithms(trunk_BSD, gene_mean_G).clamp(max=math.log(self.target_sum)).exp()

    def logarithms(self, trunk_BSD: torch.Tensor, gene_mean_G: torch.Tensor) -> torch.Tensor:
        """Return the logarithms of the rates, of which none is finite by a clamp, [B, S, G]."""
        change_BSG, _ = self.to_rates(trunk_BSD)
        start_G = gene_mean_G.float().expm1().clamp(min=1e-4).log()
        return start_G + change_BSG[..., : self.n_genes].float()

    def loss(
        self, trunk_BSD: torch.Tensor, gene_mean_G: torch.Tensor, x_BSG: torch.Tensor, library_BS: torch.Tensor
    ) -> torch.Tensor:
        """Return the negative log-likelihood of cells, in nats, [B, S, G].

        `x_BSG` is log1p of counts normalised to ``target_sum``: with the library size, the counts of each cell over all
        genes, these are the counts again.
        """
        scale_BS1 = library_BS[..., None].float() / self.target_sum
        counts_BSG = (x_BSG.float().expm1() * scale_BS1).round()
        mean_BSG = self(trunk_BSD, gene_mean_G) * scale_BS1
        return negative_binomial_loss(counts_BSG, mean_BSG, self.log_inverse_dispersion.float().exp())

    def draw(self, x_BSG: torch.Tensor, library_BS: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw counts of cells of these library sizes, and return them normalised and log1p again [B, S, G].

        `x_BSG` is ``log1p`` of the rates, as :meth:`Decoder.predict` gives them; the generator is on their device.
        """
        scale_BS1 = library_BS[..., None].float().clamp(min=1) / self.target_sum
        shape_G = self.log_inverse_dispersion.float().exp()
        # A negative binomial is a Poisson whose rate is drawn from a gamma distribution.
        mean_BSG = x_BSG.float().expm1() * scale_BS1
        gamma_BSG = torch._standard_gamma(shape_G.expand_as(mean_BSG).contiguous(), generator=generator)
        return (torch.poisson(gamma_BSG * mean_BSG / shape_G, generator=generator) / scale_BS1).log1p()
