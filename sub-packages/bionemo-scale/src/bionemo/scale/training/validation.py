"""Score how well held-out conditions are predicted; checkpoints are chosen by it."""

from collections.abc import Sequence

import torch
from megatron.core import parallel_state

from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.model.scale_model import ScaleModel

NETWORK_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the network that validation chooses from, where there is a linear start."""


class ConditionScores:
    """`ConditionScores` gives PDCorr: the mean Pearson correlation over genes of predicted and observed delta.

    The observed delta is that of all cells, measured against the control cells of the role target; the predicted one is
    the mean change of the control cells of the validation sets, which have the role input. Predicted means are linear
    in the network's share but for the clamp to expression's range, so two predictions serve every share.

    Parameters
    ----------
    observed
        Condition -> mean log1p less that of the context's control cells of the role target, [G].
    network_shares
        Values to score; one for a model without a linear start.
    """

    def __init__(self, observed: dict[int, torch.Tensor], network_shares: Sequence[float]):
        self.network_shares = tuple(network_shares)
        self._row = {condition: row for row, condition in enumerate(sorted(observed))}
        self._observed = torch.stack([observed[condition] for condition in self._row])
        self.reset()

    def reset(self) -> None:
        """Forget what was predicted."""
        # Summed change of cells at a share of 0, and at a share of 1; then the number of cells.
        self._sums = torch.zeros(2, *self._observed.shape, dtype=torch.float64)
        self._cells = torch.zeros(len(self._observed), dtype=torch.float64)

    @torch.no_grad()
    def add(self, model: ScaleModel, batch: TrainingBatch) -> None:
        """Predict the sets of a batch, and add them to the sums of their conditions."""
        assert batch.place is not None
        control, mask, condition = batch.control.to(next(model.parameters()).dtype), batch.mask, batch.condition
        start, predicted = (model.predict(control, mask, condition, batch.key, share) for share in (0.0, 1.0))
        if (rates := model.expression_decoder.rates) is not None:
            assert batch.library is not None
            generator = torch.Generator(device=control.device).manual_seed(int(batch.key[0]))
            predicted = rates.draw(predicted, batch.library[0], generator)
        weight = mask[..., None].double()
        changes = torch.stack([((x.double() - control.double()) * weight).sum(1) for x in (start, predicted)]).cpu()
        rows = [self._row.get(place, -1) for place in batch.place.tolist()]
        for place, (row, cells) in enumerate(zip(rows, mask.sum(1).tolist(), strict=True)):
            if row >= 0 and cells:
                self._sums[:, row] += changes[:, place]
                self._cells[row] += cells

    def best(self, device: torch.device) -> tuple[float, float]:
        """Return the best score over all data-parallel ranks, and its share; at a tie the smaller share."""
        packed = torch.cat([self._sums.flatten(), self._cells]).to(device)
        torch.distributed.all_reduce(packed, group=parallel_state.get_data_parallel_group())
        packed = packed.cpu()
        cells = packed[-len(self._cells) :]
        seen = cells > 0
        start, whole = packed[: -len(self._cells)].unflatten(0, self._sums.shape)[:, seen] / cells[seen][:, None]
        observed = self._observed.double()[seen]
        scores = [float(_pearson(start + share * (whole - start), observed).mean()) for share in self.network_shares]
        best = max(scores)
        return best, self.network_shares[scores.index(best)]


def _pearson(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Correlate over the last axis; 0 where one of the two does not vary."""
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    size = x.norm(dim=-1) * y.norm(dim=-1)
    return torch.where(size > 0, (x * y).sum(-1) / size.clamp(min=1e-12), 0.0)
