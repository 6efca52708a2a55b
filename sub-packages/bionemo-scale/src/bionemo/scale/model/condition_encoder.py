"""A condition's covariates to one vector: seed attention over a token for each.

Shapes: B sets, T tokens of a condition, K seeds, D latent. The tables and the pooling are replicated over
tensor-parallel ranks: they see B * T tokens, a few hundred at most.
"""

import math

import torch
from megatron.core.transformer.module import MegatronModule
from torch import nn

from bionemo.scale.model.config import ScaleConfig
from bionemo.scale.model.vocabulary import Vocabulary


class ConditionEncoder(MegatronModule):
    """One token per covariate (perturbation, context, batch), pooled by learnable seed vectors.

    The pooling is pooling by multi-head attention (Lee et al. 2019, "Set transformer") with one head per seed: seed k
    attends over the tokens, and the K results are joined by a linear layer.
    """

    def __init__(self, config: ScaleConfig, vocabulary: Vocabulary):
        super().__init__(config=config.transformer())
        width, seeds = config.hidden_size, config.condition_seeds
        self.perturbation = nn.Embedding(len(vocabulary.perturbations), width)
        # An empty table cannot be stored; one row stands in for it and is never looked up.
        self.context = nn.Embedding(max(len(vocabulary.contexts), 1), width)
        self.batch = nn.Embedding(max(len(vocabulary.batches), 1), width)
        self.seeds = nn.Parameter(torch.empty(seeds, width).normal_(std=width**-0.5))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.join = nn.Linear(seeds * width, width, bias=False)

    def forward(
        self, perturbation_B: torch.Tensor, context_B: torch.Tensor, batch_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a batch of conditions.

        Parameters
        ----------
        perturbation_B
            int64 [B], rows of the perturbation table.
        context_B, batch_B
            int64 [B], rows of their tables; -1 where the condition has no such token.

        Returns
        -------
        condition : torch.Tensor
            [B, D].
        attention : torch.Tensor
            [B, K, T], the weight each seed gives to (perturbation, context, batch).
        """
        tokens_BTD = torch.stack(
            [
                self.perturbation(perturbation_B),
                self.context(context_B.clamp(min=0)),
                self.batch(batch_B.clamp(min=0)),
            ],
            dim=1,
        )
        there_BT = torch.stack([perturbation_B >= 0, context_B >= 0, batch_B >= 0], dim=1)
        scores_BKT = self.seeds @ self.key(tokens_BTD).transpose(1, 2) / math.sqrt(tokens_BTD.shape[-1])
        attention_BKT = scores_BKT.masked_fill(~there_BT[:, None], float("-inf")).softmax(-1)
        pooled_BKD = attention_BKT @ self.value(tokens_BTD)
        return self.join(pooled_BKD.flatten(1)), attention_BKT
