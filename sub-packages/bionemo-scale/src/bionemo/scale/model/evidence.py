"""Make changes of cells from what is known of a condition from elsewhere, gene by gene.

Axes: B sets, S cells, G genes, g the genes of one tensor-parallel rank, F features of a gene, H hidden, K numbers of a
gene that cells weigh, D latent.
"""

import math

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import nn

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import GENE_MULTIPLE, ModelConfig
from bionemo.scale.layers.transformer import transformer_config
from bionemo.scale.linear_start.apply import FEATURES

HIDDEN = 32
"""H."""
NUMBERS = 8
"""K."""


class EvidenceHead(MegatronModule):
    """An `EvidenceHead` is a network of one hidden layer that all genes share, with a learnt embedding of each gene.

    It answers K + 1 numbers a gene, of which a cell's latent weighs K: ``change = u_0 + sum_k w_k(z0) u_k``. They start
    at zero. Tensor-parallel ranks divide the genes.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, genes: int):
        super().__init__(config=transformer_config(config, compute))
        self.genes = genes
        columns = math.ceil(genes / GENE_MULTIPLE) * GENE_MULTIPLE
        rank = parallel_state.get_tensor_model_parallel_rank()
        # Drawn whole, so that the numbers of a gene do not depend on how many ranks there are.
        drawn = torch.empty(columns, HIDDEN).normal_()
        self.gene_embedding = nn.Parameter(drawn.chunk(compute.tensor_parallel)[rank].clone())
        set_tensor_model_parallel_attributes(self.gene_embedding, is_parallel=True, dim=0, stride=1)
        self.first = rank * len(self.gene_embedding)
        self.enter = nn.Linear(FEATURES, HIDDEN, bias=False)
        self.leave = nn.Linear(HIDDEN + FEATURES, NUMBERS + 1, bias=False)
        self.weigh = nn.Linear(config.hidden_size, NUMBERS, bias=False)
        self.summary = nn.Linear(HIDDEN, config.hidden_size, bias=False)
        for layer in (self.leave, self.summary):
            nn.init.zeros_(layer.weight)

    def forward(self, features_BFG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read what is known of each set's condition, as ``LinearStart.features`` says it.

        Return numbers of genes [B, K + 1, G], for :meth:`corrected`, and what is added to encoded conditions, [B, D].
        """
        last = self.first + len(self.gene_embedding)
        own_BFg = features_BFG[..., self.first : last].to(self.gene_embedding.dtype)
        sets, _, genes = own_BFg.shape
        # A rank's gradient of weights that all share is of its own genes: this adds them up.
        enter, leave = (copy_to_tensor_model_parallel_region(layer.weight) for layer in (self.enter, self.leave))
        of_hidden, of_own = (part.expand(sets, -1, -1) for part in leave.split([HIDDEN, FEATURES], dim=1))
        embedding_BHg = self.gene_embedding[:genes].T.contiguous().expand(sets, -1, -1)
        hidden_BHg = F.silu(torch.baddbmm(embedding_BHg, enter.expand(sets, -1, -1), own_BFg))
        known_BKg = torch.baddbmm(of_own @ own_BFg, of_hidden, hidden_BHg)
        known_BKg = F.pad(known_BKg, (0, len(self.gene_embedding) - genes))
        known_BKG = gather_from_tensor_model_parallel_region(known_BKg)[..., : self.genes]
        mean_BH = reduce_from_tensor_model_parallel_region(hidden_BHg.sum(2)) / self.genes
        return known_BKG, self.summary(mean_BH)

    def weights(self, z0_BSD: torch.Tensor) -> torch.Tensor:
        """Return what cells weigh the numbers of a gene by, from their latents, [B, S, K + 1]; the first is 1."""
        weights_BSK = self.weigh(F.rms_norm(z0_BSD, z0_BSD.shape[-1:]))
        return F.pad(weights_BSK, (1, 0), value=1.0)

    def corrected(
        self, start_BSG: torch.Tensor, z0_BSD: torch.Tensor, known_BKG: torch.Tensor, share: float = 1.0
    ) -> torch.Tensor:
        """Return moved control cells with a share of the change added, log1p [B, S, G]."""
        weights_BSK = self.weights(z0_BSD)
        if start_BSG.dtype != known_BKG.dtype:
            return start_BSG + share * (weights_BSK @ known_BKG)
        return torch.baddbmm(start_BSG, weights_BSK, known_BKG, alpha=share)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None) -> dict:
        """Return the weights, the embedding of genes divided over tensor-parallel ranks."""
        own = self.state_dict(prefix="", keep_vars=True)
        return make_sharded_tensors_for_checkpoint(own, prefix, {"gene_embedding": 0}, sharded_offsets)
