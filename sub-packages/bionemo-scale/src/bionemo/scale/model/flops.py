"""Count the floating-point operations of a training step, and look up what a device can do.

Counted are the matrix products that a step carries out, two operations for each multiply-add, on padded shapes.
Normalisations, activations, the optimizer, and the further tokens of combinations, doses and embeddings are left out;
what recomputation does twice counts once.

Words: B sets, S cells, G genes, M gene modules of width d, D latent, K seeds.
"""

import logging
import math
from collections.abc import Iterator
from functools import cache

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import GENE_MULTIPLE, ConditionPooling, Evidence, Head, ModelConfig, SetLoss
from bionemo.scale.linear_start.apply import FEATURES, TERMS
from bionemo.scale.model.evidence import HIDDEN, NUMBERS

_log = logging.getLogger("bionemo.scale")

CONDITION_TOKENS = 3
"""Perturbation, context and batch."""
FORWARD, ONE_GRADIENT, BOTH_GRADIENTS = 1, 2, 3
"""How often a product's operations are spent: alone, with the gradient of one factor, with those of both."""

# Dense bf16 in FLOP/s by CUDA's whole name of the device, from NVIDIA's data sheets.
_PEAK_BF16 = {
    "NVIDIA GB200": 2.5e15,
    "NVIDIA B200": 2.25e15,
    "NVIDIA GH200 480GB": 0.989e15,
    "NVIDIA GH200 144G HBM3e": 0.989e15,
    "NVIDIA H200": 0.989e15,
    "NVIDIA H100 80GB HBM3": 0.989e15,
    "NVIDIA H100 NVL": 0.835e15,
    "NVIDIA H100 PCIe": 0.756e15,
    "NVIDIA A100-SXM4-80GB": 0.312e15,
    "NVIDIA A100-SXM4-40GB": 0.312e15,
    "NVIDIA A100 80GB PCIe": 0.312e15,
    "NVIDIA A100-PCIE-40GB": 0.312e15,
    "NVIDIA L40S": 0.362e15,
}

Product = tuple[int, int, int, int]
"""Rows, inner size, columns, and one of the three above."""


@cache
def peak_flops(device: str) -> float | None:
    """Return the dense bf16 FLOP/s of a device by CUDA's name for it; None, with a notice, for one not in the table."""
    if device not in _PEAK_BF16:
        _log.warning("the peak of %r is not known, so its share (throughput/mfu) is not logged", device)
    return _PEAK_BF16.get(device)


def training_flops(config: ModelConfig, compute: ComputeConfig, genes: int, sets: int, cells: int) -> int:
    """Count the operations of the forward and backward pass over one batch, on all tensor-parallel ranks together.

    Sets and cells, B and S, include padding.
    """
    products = _step(config, compute, genes, sets, cells)
    return sum(2 * rows * inner * columns * times for rows, inner, columns, times in products)


def _step(config: ModelConfig, compute: ComputeConfig, genes: int, sets: int, cells: int) -> Iterator[Product]:
    """List the products of ``ScaleModel.forward`` and its gradients, in its order."""
    width, members = config.hidden_size, sets * cells
    trained = sets * config.reconstructed_cells(cells)
    columns = math.ceil(genes / GENE_MULTIPLE) * GENE_MULTIPLE
    yield from _encode(config, compute, genes, 2 * sets, 2 * members, 2 * trained)
    yield from _feed_forward(config, 2 * trained, width)
    yield 2 * trained, width, columns, BOTH_GRADIENTS
    yield from _condition(config, sets)
    yield from _transport(config, compute, sets, cells)
    trunk = _feed_forward(config, members, width)
    if config.evidence is Evidence.ON:
        yield sets * genes, FEATURES, HIDDEN + NUMBERS + 1, ONE_GRADIENT  # of what is given
        yield sets * genes, HIDDEN, NUMBERS + 1, BOTH_GRADIENTS
        yield sets, HIDDEN, width, BOTH_GRADIENTS  # the summary
    if config.set_loss is not SetLoss.NONE or config.evidence is Evidence.ON:
        if config.evidence is Evidence.ON:
            yield sets * genes, TERMS, 1, FORWARD  # the linear start
            yield members, width, NUMBERS, ONE_GRADIENT  # of latents, which have no gradient here
            yield members, NUMBERS + 1, genes, BOTH_GRADIENTS
        yield from trunk
        if config.head is Head.RESIDUAL:
            yield from trunk  # of the control cells: what is projected is the difference
        yield members, width, columns, BOTH_GRADIENTS
        if config.evidence is Evidence.ON:
            for times in (ONE_GRADIENT, FORWARD):  # the means of predicted cells and of control cells
                yield sets, cells, genes, times
    if config.set_loss is not SetLoss.NONE:
        # Products of predicted with observed cells, among the predicted, and among the observed.
        for times in (ONE_GRADIENT, ONE_GRADIENT, FORWARD):
            yield members, genes, cells, times
    if config.head is Head.NEGATIVE_BINOMIAL:
        for rows in (trained, members):  # rates of the cells as encoded and as predicted
            yield from _feed_forward(config, rows, width)
            yield rows, width, columns, BOTH_GRADIENTS


def _encode(
    config: ModelConfig, compute: ComputeConfig, genes: int, sets: int, members: int, trained: int
) -> Iterator[Product]:
    modules, size, width = config.gene_modules, config.gene_module_size, config.hidden_size
    if trained < members:
        yield members, genes, modules * size, FORWARD
        rest = members - trained
        for rows, inner, columns, _ in _blocks(config, rest * modules, modules, size, config.encoder_layers):
            yield rows, inner, columns, FORWARD
        yield rest, modules * size, width, FORWARD
    yield trained, genes, modules * size, _of_what_is_given(compute)
    yield from _blocks(config, trained * modules, modules, size, config.encoder_layers)
    yield trained, modules * size, width, BOTH_GRADIENTS
    if config.deep_sets:
        yield members, width, width, BOTH_GRADIENTS  # phi
        yield sets, width, width, BOTH_GRADIENTS  # rho, of a set's summary


def _condition(config: ModelConfig, sets: int) -> Iterator[Product]:
    width, attention = config.hidden_size, config.condition_pooling is ConditionPooling.SEED_ATTENTION
    seeds = config.condition_seeds if attention else 1
    if attention:
        yield sets * CONDITION_TOKENS, width, width, BOTH_GRADIENTS  # keys
        yield sets * seeds, width, CONDITION_TOKENS, BOTH_GRADIENTS  # the seeds' scores
    yield sets * CONDITION_TOKENS, width, width, BOTH_GRADIENTS  # values
    yield sets * seeds, width, CONDITION_TOKENS, BOTH_GRADIENTS if attention else ONE_GRADIENT  # what is gathered
    yield sets, seeds * width, width, BOTH_GRADIENTS


def _transport(config: ModelConfig, compute: ComputeConfig, sets: int, cells: int) -> Iterator[Product]:
    width, members = config.hidden_size, sets * cells
    given = _of_what_is_given(compute)
    yield sets, 2 * (width // 2), width, ONE_GRADIENT  # of the times, which have no gradient
    yield sets, width, width, BOTH_GRADIENTS
    yield members, 2 * width, width, given  # of latents, which have no gradient here
    yield sets, width, (6 * config.num_layers + 2) * width, BOTH_GRADIENTS  # modulations
    yield from _blocks(config, members, cells, width, config.num_layers)
    yield members, width, width, BOTH_GRADIENTS


def _blocks(config: ModelConfig, rows: int, attended: int, width: int, layers: int) -> Iterator[Product]:
    """List the products of LLaMA blocks over ``rows`` members, each of which attends to ``attended``."""
    head = width // config.num_attention_heads
    for _ in range(layers):
        yield rows, width, width + 2 * config.num_query_groups * head, BOTH_GRADIENTS
        yield rows, width, attended, BOTH_GRADIENTS
        yield rows, attended, width, BOTH_GRADIENTS
        yield rows, width, width, BOTH_GRADIENTS
        yield from _feed_forward(config, rows, width)


def _feed_forward(config: ModelConfig, rows: int, width: int) -> list[Product]:
    inner = config.feed_forward(width)
    return [(rows, width, 2 * inner, BOTH_GRADIENTS), (rows, inner, width, BOTH_GRADIENTS)]


def _of_what_is_given(compute: ComputeConfig) -> int:
    """Return the times of a layer whose input has no gradient; over several ranks Megatron's makes it all the same."""
    return ONE_GRADIENT if compute.tensor_parallel == 1 else BOTH_GRADIENTS
