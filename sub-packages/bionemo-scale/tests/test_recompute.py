"""Computing activations again in the backward pass, and compiled blocks."""

import pytest
import torch

from bionemo.scale.data.batches import TrainingBatch


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
