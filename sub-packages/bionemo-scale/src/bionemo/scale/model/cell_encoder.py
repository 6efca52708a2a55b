"""Encode cells to latents on two levels: gene modules within a cell, then the set of cells.

Axes: B sets, S cells, C the cells of all sets, G genes, M gene modules of width d, D latent.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import ModelConfig
from bionemo.scale.layers.linear import ColumnParallelLinear, RowParallelLinear
from bionemo.scale.layers.specs import LayerSpec
from bionemo.scale.layers.transformer import transformer_config
from bionemo.scale.model.blocks import LlamaStack


class GeneModuleEncoder(MegatronModule):
    """A `GeneModuleEncoder` encodes each cell on its own: genes to M tokens of width d, LLaMA blocks, joined to D."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, spec: LayerSpec, n_genes: int):
        modules = transformer_config(config, compute, width=config.gene_module_size, layers=config.encoder_layers)
        super().__init__(config=modules)
        self.shape = (config.gene_modules, config.gene_module_size)
        joined = config.gene_modules * config.gene_module_size
        linear: dict[str, Any] = dict(config=modules, init_method=modules.init_method, bias=False)
        self.project = ColumnParallelLinear(n_genes, joined, gather_output=True, **linear)
        self.module_embedding = torch.nn.Parameter(torch.empty(self.shape).normal_(std=0.02))
        blocks = transformer_config(
            config, compute, width=config.gene_module_size, layers=config.encoder_layers, in_blocks=True
        )
        self.blocks = LlamaStack(blocks, spec, conditioned=False, recompute=compute.recompute, compiled=compute.compile)
        self.join = RowParallelLinear(
            joined, config.hidden_size, input_is_parallel=False, skip_bias_add=False, **linear
        )

    def forward(self, x_BSG: torch.Tensor, trained: int | None = None) -> torch.Tensor:
        """Encode centred log1p expression [B, S, G] to [B, S, D]; see :meth:`CellEncoder.forward`."""
        if trained is None or trained >= x_BSG.shape[1] or not torch.is_grad_enabled():
            return self._joined(self.project(x_BSG)[0])
        with torch.no_grad():
            # Of all cells: leaving out some would copy the others.
            others = self._joined(self.project(x_BSG)[0][:, trained:])
        return torch.cat([self._joined(self.project(x_BSG[:, :trained])[0]), others], dim=1)

    def _joined(self, modules_BSm: torch.Tensor) -> torch.Tensor:
        """Attend over modules, which lie side by side [B, S, M * d], and join them to cells [B, S, D]."""
        tokens_CMd = modules_BSm.flatten(0, 1).unflatten(-1, self.shape) + self.module_embedding
        tokens_MCd = self.blocks(tokens_CMd.transpose(0, 1).contiguous())
        h_CD, _ = self.join(tokens_MCd.transpose(0, 1).flatten(1))
        return h_CD.unflatten(0, modules_BSm.shape[:2])


class DeepSets(MegatronModule):
    """A `DeepSets` is ``h_i <- h_i + rho(mean_j phi(h_j))`` across cells (Zaheer et al. 2017), equivariant.

    ``phi`` is a linear layer and SiLU, ``rho`` a linear layer that starts at zero.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig):
        transformer = transformer_config(config, compute)
        super().__init__(config=transformer)
        width = config.hidden_size
        phi: dict[str, Any] = dict(config=transformer, bias=False, init_method=transformer.init_method)
        rho: dict[str, Any] = phi | {"init_method": torch.nn.init.zeros_, "input_is_parallel": True}
        self.phi = ColumnParallelLinear(width, width, gather_output=False, **phi)
        self.rho = RowParallelLinear(width, width, skip_bias_add=False, **rho)

    def summary(self, h_BSD: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
        """Return the mean of ``phi`` over the valid cells, [B, 1, D / tensor parallel size]; 0 for an empty set."""
        phi_BSD, _ = self.phi(h_BSD)
        valid_BS1 = mask_BS.unsqueeze(-1).to(phi_BSD.dtype)
        return (F.silu(phi_BSD) * valid_BS1).sum(1, keepdim=True) / valid_BS1.sum(1, keepdim=True).clamp(min=1)

    def forward(self, h_BSD: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
        """Add to every cell what its set has in common."""
        shared_B1D, _ = self.rho(self.summary(h_BSD, mask_BS))
        return h_BSD + shared_B1D


class CellEncoder(MegatronModule):
    """A `CellEncoder` encodes the log1p expression of a set to its latents, on both levels."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, spec: LayerSpec, n_genes: int):
        super().__init__(config=transformer_config(config, compute))
        self.within_cell = GeneModuleEncoder(config, compute, spec, n_genes)
        self.across_cells = DeepSets(config, compute) if config.deep_sets else None

    def forward(self, x_BSG: torch.Tensor, mask_BS: torch.Tensor, trained: int | None = None) -> torch.Tensor:
        """Encode the cells of sets.

        Parameters
        ----------
        x_BSG
            log1p expression less the mean of each gene.
        mask_BS
            True where a cell is there.
        trained
            Gradients pass through the encoding of so many first cells of each set; through all if not given. The
            latents are the same.

        Returns
        -------
        torch.Tensor
            Latents [B, S, D].
        """
        h_BSD = self.within_cell(x_BSG, trained)
        return h_BSD if self.across_cells is None else self.across_cells(h_BSD, mask_BS)
