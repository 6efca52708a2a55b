"""Encode a condition's covariates to one vector: seed attention over a token for each.

Axes: B sets, P perturbations of a combination, T = P + 2 tokens, K seeds, E embedding, D latent. All but the
projection of embeddings is replicated over tensor-parallel ranks: it sees B * T tokens, a few hundred at most.
"""

import math

import torch
from megatron.core.transformer.module import MegatronModule
from torch import nn

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import ConditionPooling, ModelConfig, PerturbationTokens
from bionemo.scale.data.condition import Condition
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.layers.linear import ColumnParallelLinear
from bionemo.scale.layers.transformer import transformer_config

EMBEDDING = "condition_encoder.perturbation.embedding"
"""Name of the vectors of perturbations among the model's buffers."""


class PerturbationEncoder(MegatronModule):
    """A `PerturbationEncoder` makes tokens of a learned table, of supplied embeddings or of both, and of the dose.

    In the sum the learned part starts at zero and is hidden in some training sets, so that a perturbation without one
    (never trained on) is nothing unusual. Where the network is given evidence no token is learned but the control's.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, vocabulary: Vocabulary):
        transformer = transformer_config(config, compute)
        super().__init__(config=transformer)
        self.kind = config.perturbation_tokens
        # The control label has no embedding and no evidence: its token is learned whatever the kind.
        self.learned_rows = len(vocabulary.perturbations) if config.learns_tokens else 1
        self.learned = nn.Embedding(self.learned_rows, config.hidden_size)
        if self.kind is not PerturbationTokens.LEARNED:
            size = vocabulary.embedding_size
            self.embedding = nn.Buffer(torch.zeros(len(vocabulary.tokens), size))
            self.project = ColumnParallelLinear(
                size,
                config.hidden_size,
                config=transformer,
                bias=False,
                gather_output=True,
                init_method=lambda weight: nn.init.normal_(weight, std=size**-0.5),
            )
        if self.kind is PerturbationTokens.BOTH:
            nn.init.zeros_(self.learned.weight[1:])
        self.dose = nn.Linear(3, config.hidden_size, bias=False) if vocabulary.log_dose else None

    def forward(
        self, perturbation_BP: torch.Tensor, dose_BP: torch.Tensor, hide_learned_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return tokens [B, P, D]; what stands where ``perturbation_BP`` is -1 means nothing."""
        row_BP = perturbation_BP.clamp(min=0)
        learned = perturbation_BP < self.learned_rows
        if self.kind is PerturbationTokens.BOTH and hide_learned_B is not None:
            # The control token has nothing but its learned part.
            learned = learned & (~hide_learned_B[:, None] | (perturbation_BP == 0))
        tokens_BPD = self.learned(row_BP.clamp(max=self.learned_rows - 1)) * learned[..., None]
        if self.kind is not PerturbationTokens.LEARNED:
            projected_BPD, _ = self.project(self.embedding[row_BP].to(tokens_BPD.dtype))
            tokens_BPD = tokens_BPD + projected_BPD
        if self.dose is None:
            return tokens_BPD
        # 1, u and u^2 of the standardised log dose u: a perturbation without a dose adds nothing.
        u_BP = dose_BP.nan_to_num()
        powers = torch.stack([torch.ones_like(u_BP), u_BP, u_BP.square()], dim=-1) * ~dose_BP.isnan()[..., None]
        return tokens_BPD + self.dose(powers.to(tokens_BPD.dtype))


class ConditionEncoder(MegatronModule):
    """A `ConditionEncoder` pools a token for each covariate (perturbation with dose, context, batch) by learnt seeds.

    The pooling is pooling by multi-head attention (Lee et al. 2019, "Set transformer") with one head per seed: seed k
    attends over the tokens, and the K results are joined by a linear layer. Mean pooling, for comparison, gives every
    token the same weight.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, vocabulary: Vocabulary):
        super().__init__(config=transformer_config(config, compute))
        width = config.hidden_size
        self.by_attention = config.condition_pooling is ConditionPooling.SEED_ATTENTION
        seeds = config.condition_seeds if self.by_attention else 1
        self.perturbation = PerturbationEncoder(config, compute, vocabulary)
        # An empty table cannot be stored; one row stands in for it and is never looked up.
        self.context = nn.Embedding(max(len(vocabulary.contexts), 1), width)
        self.batch = nn.Embedding(max(len(vocabulary.batches), 1), width)
        if self.by_attention:
            self.seeds = nn.Parameter(torch.empty(seeds, width).normal_(std=width**-0.5))
            self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.join = nn.Linear(seeds * width, width, bias=False)

    def forward(
        self, condition: Condition, hide_learned_B: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode the conditions of B sets, [B, D].

        Where `hide_learned_B`, bool [B], the learned tokens of perturbations are left out of the sum with their
        embeddings. Return as well the weight that each seed gives to (perturbations, context, batch), [B, K, T]; 0 for
        a token that is not there.
        """
        tokens_BTD = torch.cat(
            [
                self.perturbation(condition.perturbation, condition.dose, hide_learned_B),
                self.context(condition.context.clamp(min=0))[:, None],
                self.batch(condition.batch.clamp(min=0))[:, None],
            ],
            dim=1,
        )
        there_BT = torch.cat([condition.perturbation, condition.context[:, None], condition.batch[:, None]], 1) >= 0
        if self.by_attention:
            scores_BKT = self.seeds @ self.key(tokens_BTD).transpose(1, 2) / math.sqrt(tokens_BTD.shape[-1])
            attention_BKT = scores_BKT.masked_fill(~there_BT[:, None], float("-inf")).softmax(-1)
        else:
            attention_BKT = (there_BT / there_BT.sum(1, keepdim=True))[:, None].to(tokens_BTD.dtype)
        pooled_BKD = attention_BKT @ self.value(tokens_BTD)
        return self.join(pooled_BKD.flatten(1)), attention_BKT
