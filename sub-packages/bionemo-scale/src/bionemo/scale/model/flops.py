"""Floating-point operations of a training step, and what a device can do.

Counted are the matrix products that a step carries out, two operations for each multiply-add, on padded shapes.
Left out are normalisations, activations, the optimizer, and the further tokens of combinations, doses and embeddings;
what recomputation does twice counts once.

Shapes: B sets, S cells, G genes, M gene modules of width d, D latent, K seeds.
"""

import math
from collections.abc import Iterator

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import GENE_MULTIPLE, ConditionPooling, Head, ModelConfig, SetLoss
from bionemo.scale.layers.transformer import projects_plainly

CONDITION_TOKENS = 3
"""Perturbation, context and batch."""
FORWARD, ONE_GRADIENT, BOTH_GRADIENTS = 1, 2, 3
"""How often a product's operations are spent: alone, with the gradient of one factor, with those of both."""

# Dense bf16 in FLOP/s, from NVIDIA's data sheets. A name that is part of another comes after it.
_PEAK_BF16 = {
    "B200": 2.25e15,
    "GH200": 0.989e15,
    "H200": 0.989e15,
    "H100 PCIe": 0.756e15,
    "H100 NVL": 0.835e15,
    "H100": 0.989e15,
    "A100": 0.312e15,
    "L40S": 0.362e15,
}

Product = tuple[int, int, int, int]
"""Rows, inner size, columns, and one of the three above."""


def peak_flops(device: str) -> float | None:
    """Dense bf16 FLOP/s of a device by CUDA's name for it; None for one not in the table, and for CPUs."""
    return next((peak for name, peak in _PEAK_BF16.items() if name in device), None)


def training_flops(config: ModelConfig, compute: ComputeConfig, genes: int, sets: int, cells: int) -> int:
    """Operations of the forward and backward pass over one batch, on all tensor-parallel ranks together.

    Parameters
    ----------
    config, compute
        The model, and how it is computed.
    genes
        G.
    sets, cells
        B and S, padding included.
    """
    products = _step(config, compute, genes, sets, cells)
    return sum(2 * rows * inner * columns * times for rows, inner, columns, times in products)


def _step(config: ModelConfig, compute: ComputeConfig, genes: int, sets: int, cells: int) -> Iterator[Product]:
    """Products of ``ScaleModel.forward`` and its gradients, in its order."""
    width, members = config.hidden_size, sets * cells
    trained = sets * config.reconstructed_cells(cells)
    plain, columns = projects_plainly(compute, genes), math.ceil(genes / GENE_MULTIPLE) * GENE_MULTIPLE
    yield from _encode(config, compute, genes, 2 * sets, 2 * members, 2 * trained)
    yield from _feed_forward(config, 2 * trained, width)
    yield 2 * trained, width, genes if plain else columns, BOTH_GRADIENTS
    yield from _condition(config, sets)
    yield from _transport(config, compute, sets, cells)
    trunk = _feed_forward(config, members, width)
    decode = [*trunk, (members, width, genes if plain else columns, BOTH_GRADIENTS)]
    if config.set_loss is not SetLoss.NONE:
        yield from decode
        if config.head is Head.RESIDUAL:
            yield from trunk if plain else decode
        # Distances of the predicted to the observed cells, among the predicted, and among the observed. The gradient
        # of the energy distance takes the pairs among the predicted cells once, not from both ends.
        among = ONE_GRADIENT if config.set_loss is SetLoss.ENERGY else BOTH_GRADIENTS
        for times in (ONE_GRADIENT, among, FORWARD):
            yield members, genes, cells, times
    if config.set_loss is SetLoss.MMD:
        yield members, genes, cells, FORWARD  # for the width of the kernels
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
    """LLaMA blocks over ``rows`` members, each of which attends to ``attended``."""
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
    """For a layer whose input has no gradient; Megatron's, over several ranks, makes it all the same."""
    return ONE_GRADIENT if compute.tensor_parallel == 1 else BOTH_GRADIENTS
