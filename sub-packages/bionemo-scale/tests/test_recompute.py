"""Computing activations again in the backward pass, and compiled blocks."""

import pytest
import torch

from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.model.tuning import tune


def test_losses_and_gradients_are_the_same_to_the_bit(build, sets):
    kept, again, batch = build(), build(recompute=True), sets(6, 4)
    seen = []
    again.transport.blocks.block_1.register_forward_pre_hook(lambda *_: seen.append(1))
    losses = [model(TrainingBatch(**batch))["loss"] for model in (kept, again)]
    assert torch.equal(*losses)
    forward_passes = len(seen)
    for loss in losses:
        loss.backward()
    assert len(seen) == 2 * forward_passes
    for (name, one), (_, other) in zip(kept.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name


@pytest.mark.slow
def test_compiled_blocks_have_the_losses_and_gradients_of_the_others(build, sets):
    plain, compiled, batch = build(), build(compile=True), sets(6, 4)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    losses = [model(TrainingBatch(**batch))["loss"] for model in (plain, compiled)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs, "nothing was compiled"
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    for loss in losses:
        loss.backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-4 * one.grad.norm(), name


def test_compiled_blocks_are_finetuned_like_the_others(build, sets, monkeypatch, vocabulary):
    """The compiler traces here and makes no code: adapters are hooks, which must be traced with their layers."""
    compile_of = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_of(module, backend="eager"))
    known = {
        **{field: len(getattr(vocabulary, field)) for field in ("perturbations", "contexts", "batches")},
        "dose": 0,
    }
    graphs, batch, gradients = torch._dynamo.utils.counters["stats"]["unique_graphs"], TrainingBatch(**sets(6, 4)), []
    for compiled in (False, True):
        model = build(compile=compiled)
        torch.manual_seed(0)
        tune(model, {"method": "low_rank", "rank": 2, "known": known})
        with torch.no_grad():
            for parameter in model.adapters.parameters():
                parameter.normal_(std=0.1)
        model(batch)["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs, "nothing was compiled"
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 8
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
