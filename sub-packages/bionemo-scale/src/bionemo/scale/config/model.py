"""`ModelConfig` says what a SCALE model is: its sizes, its transport and its losses."""

import math
from dataclasses import dataclass
from enum import StrEnum

from bionemo.scale.config.checking import check_fields
from bionemo.screens.errors import InputError

GENE_MULTIPLE = 64
"""The projection to genes has a multiple of this many columns: a tensor parallel size then divides it whatever the
number of genes, and a checkpoint has the same shapes for all."""


class Source(StrEnum):
    """Where the transport starts: the control latents, noise, or a variance-preserving mix of both."""

    CONTROL = "control"
    GAUSSIAN = "gaussian"
    MIXED = "mixed"


class Pairing(StrEnum):
    """How control cells and perturbed cells of one set are paired: as drawn, or by optimal transport."""

    NONE = "none"
    OPTIMAL_TRANSPORT = "optimal_transport"


class Prediction(StrEnum):
    """What the transport answers and is supervised on: where a cell ends, or how fast it moves."""

    ENDPOINT = "endpoint"
    VELOCITY = "velocity"


class SetLoss(StrEnum):
    """Distance between predicted and observed populations that training adds to the loss."""

    NONE = "none"
    ENERGY = "energy"
    MMD = "mmd"


class ConditionPooling(StrEnum):
    """How the tokens of a condition become one vector."""

    SEED_ATTENTION = "seed_attention"
    MEAN = "mean"


class PerturbationTokens(StrEnum):
    """Where perturbation tokens come from: a learned table, supplied embeddings, or the sum of both."""

    LEARNED = "learned"
    EMBEDDING = "embedding"
    BOTH = "both"


class Start(StrEnum):
    """What a prediction has beside the network's part: nothing, or the shift of a fitted linear start."""

    NONE = "none"
    LINEAR = "linear"


class Evidence(StrEnum):
    """Whether the network is told, gene by gene, what the linear start knows of a condition, and corrects that."""

    OFF = "off"
    ON = "on"


def mixture(start: Start, evidence: Evidence, network_share: float) -> str:
    """Say in a few words what a prediction is made of."""
    if start is Start.NONE:
        return "the network alone"
    if evidence is Evidence.ON:
        return f"a linear start and {network_share:.0%} of the network's corrections of it"
    return f"{1 - network_share:.0%} of a linear start and {network_share:.0%} of the network"


class Head(StrEnum):
    """How predicted latents become expression.

    ``residual`` moves the control cell itself by the decoded change of its latent, ``regression`` decodes the
    predicted latent alone, ``negative_binomial`` decodes rates that counts are drawn from with the control cell's
    library size.
    """

    RESIDUAL = "residual"
    REGRESSION = "regression"
    NEGATIVE_BINOMIAL = "negative_binomial"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The sizes and choices that make one SCALE model.

    The genes, contexts and perturbations it is built for come from the data: see
    :class:`~bionemo.scale.data.vocabulary.Vocabulary`.
    """

    hidden_size: int
    """Latent width D, also the width of the transport blocks."""
    num_layers: int
    """Transport blocks over the cells of a set."""
    num_attention_heads: int
    """Heads of the attention in every block; divides ``hidden_size`` and ``gene_module_size``."""
    num_query_groups: int
    """Key and value heads of grouped-query attention; divides ``num_attention_heads``."""
    ffn_hidden_size: int
    """Width inside the feed-forward layers of the transport; those of the encoder keep its ratio."""
    gene_modules: int
    """Tokens M that a cell's genes are projected to."""
    gene_module_size: int
    """Width d of a gene-module token."""
    encoder_layers: int = 1
    """Blocks over the M tokens of a cell."""
    deep_sets: bool = True
    """Whether the encoder lets the cells of a set see their mean."""
    condition_pooling: ConditionPooling = ConditionPooling.SEED_ATTENTION
    condition_seeds: int = 4
    """Learnable queries of the seed-attention pooling over a condition's tokens."""
    perturbation_tokens: PerturbationTokens = PerturbationTokens.LEARNED
    """``embedding`` and ``both`` need a file of embeddings."""
    token_dropout: float = 0.3
    """``both`` shows this share of training sets only the embeddings of their perturbations."""

    source: Source = Source.MIXED
    source_control_share: float = 0.8
    """``a`` of the mixed source ``a * z0 + sqrt(1 - a^2) * noise``, in [0, 1]."""
    pairing: Pairing = Pairing.OPTIMAL_TRANSPORT
    """``optimal_transport`` is solved on the CPU in every step: large sets (hundreds of cells) feel it, a GPU waits."""
    prediction: Prediction = Prediction.ENDPOINT
    start_fraction: float = 0.6
    """Share of training sets whose time is 0, the only time a one-step prediction uses."""
    solver_steps: int = 1
    """Steps from the source to the endpoint in a prediction."""
    context_dropout: float = 0.3
    """Share of training sets whose context and batch tokens are hidden, so that the model can do without them."""
    gene_dropout: float = 0.0
    """Share of each cell's genes that the encoder does not see in training."""
    head: Head = Head.RESIDUAL
    start: Start = Start.LINEAR
    evidence: Evidence = Evidence.OFF
    """``on`` needs ``start=linear``, which keeps what is known. The network then corrects the linear start, and knows
    perturbations by evidence (and embeddings) alone, without learned tokens of them, so that it can be told of new
    ones. All named sizes have it."""
    network_share: float | None = None
    """Share of the network in a prediction, in [0, 1]: of its corrections where it has evidence, else of the mixture
    with the linear start. Where not given, validation conditions choose it, marked by the split or drawn for a trial;
    without any it is 0."""

    endpoint_weight: float = 1.0
    """Weight of the endpoint loss, or of the velocity loss."""
    reconstruction_weight: float = 1.0
    """Weight of the auto-encoder's loss."""
    reconstruction_share: float = 0.25
    """Share of each set's cells, its first ones, that the auto-encoder is trained on in a step, above 0."""
    set_loss: SetLoss = SetLoss.ENERGY
    set_weight: float = 30.0
    """Weight of the set loss between predicted and observed populations."""
    shift_weight: float = 300.0
    """Weight of the squared error of mean shifts, for a network that is given evidence."""
    likelihood_weight: float = 1.0
    """Weight of the negative log-likelihood of counts, for the head that has one."""

    def __post_init__(self):
        check_fields(self)
        for name in ("source_control_share", "start_fraction", "context_dropout", "token_dropout", "gene_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)} is outside [0, 1].")
        if not 0 < self.reconstruction_share <= 1:
            raise InputError(
                f"reconstruction_share={self.reconstruction_share} must be above 0 and at most 1, which is all cells."
            )
        if self.head is Head.NEGATIVE_BINOMIAL and self.set_loss is not SetLoss.NONE:
            raise InputError(
                f"set_loss={self.set_loss} needs predicted cells that gradients pass through, and counts drawn by "
                f"head={self.head} are none: set set_loss=none."
            )
        if self.start is Start.LINEAR and self.head is not Head.RESIDUAL:
            raise InputError(
                f"start=linear shifts control cells, which head={self.head} does not: set start=none and evidence=off."
            )
        if self.evidence is Evidence.ON and self.start is not Start.LINEAR:
            raise InputError(f"evidence=on needs what start=linear keeps, not start={self.start}: set evidence=off.")
        share = self.network_share
        if share is not None and not (self.start is Start.LINEAR and 0 <= share <= 1):
            raise InputError(f"network_share={share} is outside [0, 1], or given without start=linear: leave it out.")
        if self.num_attention_heads % self.num_query_groups:
            raise InputError(
                f"num_query_groups={self.num_query_groups} does not divide "
                f"num_attention_heads={self.num_attention_heads}."
            )
        for name in ("hidden_size", "gene_module_size"):
            if getattr(self, name) % self.num_attention_heads:
                raise InputError(
                    f"num_attention_heads={self.num_attention_heads} does not divide {name}={getattr(self, name)}."
                )

    def split_sizes(self) -> dict[str, int]:
        """Name every size that tensor parallelism divides over its ranks."""
        return {
            "num_attention_heads": self.num_attention_heads,
            "num_query_groups": self.num_query_groups,
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size,
            "ffn_hidden_size * gene_module_size / hidden_size": self.feed_forward(self.gene_module_size),
            "GENE_MULTIPLE": GENE_MULTIPLE,
        }

    @property
    def widest_split(self) -> int:
        """Return the largest tensor parallel size that divides everything; its divisors do as well."""
        return math.gcd(*self.split_sizes().values())

    def feed_forward(self, width: int) -> int:
        """Return the feed-forward width of blocks of that width: the ratio is the same for all."""
        return max(1, self.ffn_hidden_size * width // self.hidden_size)

    @property
    def learns_tokens(self) -> bool:
        """Tell whether tokens of perturbations are learned, beside the control's."""
        return self.perturbation_tokens is not PerturbationTokens.EMBEDDING and self.evidence is Evidence.OFF

    def reconstructed_cells(self, cells: int) -> int:
        """Count the cells of a set that train the auto-encoder: a multiple of 8, which a GPU is fast with."""
        return min(cells, math.ceil(self.reconstruction_share * cells / 8) * 8)
