"""Computing activations again in the backward pass."""

import torch


def test_losses_and_gradients_are_the_same_to_the_bit(build, sets):
    kept, again, batch = build(), build(recompute=True), sets(6, 4)
    seen = []
    again.transport.blocks.block_1.register_forward_pre_hook(lambda *_: seen.append(1))
    losses = [model(**batch)["loss"] for model in (kept, again)]
    assert torch.equal(*losses)
    forward_passes = len(seen)
    for loss in losses:
        loss.backward()
    assert len(seen) == 2 * forward_passes
    for (name, one), (_, other) in zip(kept.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
