"""Check the wiring to Transformer Engine beside the stand-in for it: ``transformer_engine_checks.py NAME``.

``NAME`` is a function of this file; `test_transformer_engine.py` starts each in a process of its own, some in two.
"""

import transformer_engine_stand_in as stand_in  # first: Megatron asks for it when it is imported

# isort: split
import sys
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import apply_factories
from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TENorm, TERowParallelLinear

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import ModelConfig, Pairing, Start
from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.data.condition import Condition
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.layers.specs import LayerSpec
from bionemo.scale.model import scale_model
from bionemo.scale.model.blocks import LlamaBlock, LlamaStack
from bionemo.scale.training.cpu import redirect_cuda_to_cpu

SPEC = LayerSpec(column_linear=TEColumnParallelLinear, row_linear=TERowParallelLinear, norm=TENorm)
CONFIG = ModelConfig(
    hidden_size=64,
    num_layers=2,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=128,
    gene_modules=8,
    gene_module_size=16,
    pairing=Pairing.NONE,
    start=Start.NONE,
)
VOCABULARY = Vocabulary(
    genes=tuple(f"g{number}" for number in range(64)),
    contexts=("A",),
    perturbations=("ctrl", "p"),
    batches=(),
    control="ctrl",
    kind="counts",
    target_sum=1e4,
)


def model(*, engine: bool, weights: dict | None = None, **changes) -> scale_model.ScaleModel:
    """Build a model of torch's layers, or of Transformer Engine's, which are refused on a CPU elsewhere."""
    compute = ComputeConfig(**{"device": "cpu", "layer_spec": "local", **changes})
    with mock.patch.object(scale_model, "layer_spec", return_value=SPEC) if engine else mock.MagicMock():
        made = scale_model.ScaleModel(CONFIG, compute, VOCABULARY)
    kinds = {type(layer) for layer in made.modules()}
    assert (TERowParallelLinear in kinds) == engine
    if weights is not None:
        made.load_state_dict(weights)
    return made


def weights_of(made: scale_model.ScaleModel) -> dict:
    """Return the weights alone."""
    return {name: value for name, value in made.state_dict().items() if not name.endswith(scale_model.EXTRA_STATE)}


def losses(made: scale_model.ScaleModel) -> tuple[float, torch.Tensor]:
    """Compute the loss of four sets of 16 cells and its gradient."""
    control, perturbed = torch.rand(2, 4, 16, 64, generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([0, 1, 1, 0])
    condition = Condition(
        perturbation=rows[:, None],
        dose=torch.full((4, 1), torch.nan),
        context=torch.zeros_like(rows),
        batch=torch.full_like(rows, -1),
    )
    mask = torch.ones(4, 16, dtype=torch.bool)
    key = torch.arange(4)
    loss = made(TrainingBatch(control=control, perturbed=perturbed, mask=mask, condition=condition, key=key))["loss"]
    loss.backward()
    gradients = [value.grad.flatten() for _, value in sorted(made.named_parameters()) if value.grad is not None]
    return loss.item(), torch.cat(gradients)


def close(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor], tolerance: float) -> None:
    """Compare losses, and gradients by the norm of their difference."""
    assert abs(found[0] - expected[0]) < tolerance * abs(expected[0]), (found[0], expected[0])
    assert (found[1] - expected[1]).norm() < tolerance * expected[1].norm()


def groups(size: int = 1) -> None:
    """Make Megatron's groups."""
    if size == 1:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=size)


def same_loss() -> None:
    """The same weights have the same loss and gradient in both kinds of layers."""
    groups()
    torch.manual_seed(0)
    local = model(engine=False)
    close(losses(model(engine=True, weights=weights_of(local))), losses(local), 1e-5)


def checkpoints() -> None:
    """Both kinds of layers save the same tensors, cut in the same way, and load each other's."""
    groups()
    torch.manual_seed(0)
    local, engine = model(engine=False), model(engine=True)

    def saved(made: scale_model.ScaleModel) -> dict:
        parts = made.sharded_state_dict()
        apply_factories(parts)
        return {part.key: (part.global_shape, part.global_offset, part.dtype) for part in nested_values(parts)}

    assert saved(local) == saved(engine)
    assert any(name.endswith(scale_model.EXTRA_STATE) for name in engine.state_dict()), "nothing was left out"
    engine.load_state_dict(weights_of(local))
    local.load_state_dict(weights_of(engine))


def fp8() -> None:
    """Products of 8 bits are near, and each stack of blocks is one region, which a delayed recipe rests on."""
    groups()
    torch.manual_seed(0)
    local = model(engine=False)
    weights, expected = weights_of(local), losses(local)
    recipes = {
        "delayed": stand_in.DelayedScaling,
        "current": stand_in.Float8CurrentScaling,
        "mxfp8": stand_in.MXFP8BlockScaling,
    }
    for name, recipe in recipes.items():
        made, called = model(engine=True, weights=weights, fp8=name), []
        for part in made.modules():
            part.register_forward_hook(lambda module, *_, called=called: called.append(type(module)))
        regions = stand_in.FP8GlobalStateManager.regions
        regions.clear()
        found = losses(made)
        assert found[0] != expected[0], "nothing was rounded"
        close(found, expected, 0.15)
        assert [isinstance(region, recipe) for region in regions] == called.count(LlamaStack) * [True]
        assert called.count(LlamaStack) < called.count(LlamaBlock)


def two_ranks() -> None:
    """Two tensor-parallel ranks, with and without sequence parallelism, do as torch's layers do there."""
    redirect_cuda_to_cpu()
    groups(2)
    for sequence_parallel in (False, True):
        torch.manual_seed(0)
        changes = dict(tensor_parallel=2, devices=2, sequence_parallel=sequence_parallel)
        local = model(engine=False, **changes)
        close(losses(model(engine=True, weights=weights_of(local), **changes)), losses(local), 1e-5)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
