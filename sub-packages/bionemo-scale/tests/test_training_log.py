"""The numbers a run logs."""

import pytest
import torch

from bionemo.scale.training.module import MeanOverRanks


def test_sets_that_only_fill_up_a_batch_do_not_lower_the_logged_loss(groups):
    terms: dict[str, torch.Tensor] = {}
    losses = MeanOverRanks(terms)
    batches = [
        {"loss": torch.tensor(3.0), "filled": torch.tensor(1.0)},
        # Half of this batch is empty: its loss is a sum over the other half, divided by all.
        {"loss": torch.tensor(1.5), "filled": torch.tensor(0.5)},
    ]
    differentiated = [losses.forward({}, batch) for batch in batches]
    assert [float(loss) for loss, _ in differentiated] == [3.0, 1.5]
    assert float(losses.reduce([logged for _, logged in differentiated])) == pytest.approx(3.0)
    assert set(terms) == {"loss"}
