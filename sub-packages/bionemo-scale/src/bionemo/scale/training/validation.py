"""Score how well held-out conditions are predicted; checkpoints are chosen by it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.nn.functional as F
from megatron.core import parallel_state

from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.flow.set_loss import energy_distance
from bionemo.scale.model.scale_model import ScaleModel

NETWORK_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the network that validation chooses from, where there is a linear start."""
SHARE_WEIGHT = 1.0
"""A share that validation conditions chose is drawn to 0 with the weight of so many conditions that ask for none."""
POPULATION_WEIGHT = 0.1
"""What the whole energy distance counts beside a PDCorr of 1: enough to decide between predictions of like means."""


@dataclass(frozen=True)
class Score:
    """A `Score` says how well the validation conditions are predicted with the best share of the network."""

    pdcorr: float
    """Mean over conditions of the Pearson correlation over genes of predicted and observed delta."""
    explained: float
    """By how much the prediction is nearer to the perturbed cells than the control cells are, in energy distance, as a
    part of that of the control cells and the noise of the sets."""
    network_share: float
    """The best share where there was one to choose, drawn to 0 the more the fewer conditions chose it."""

    @property
    def value(self) -> float:
        """Return what checkpoints and shares are chosen by: PDCorr, and the populations where it is level."""
        return self.pdcorr + POPULATION_WEIGHT * self.explained


class ConditionScores:
    """`ConditionScores` scores predictions by their means and by their populations.

    PDCorr sees the mean of a population alone. It would not tell a prediction that moves every kind of cell its own way
    from one that moves all of them alike, which the energy distance tells apart. Its gain over control cells is
    measured without bias, and divided by a distance that contains the noise of the sets: with few cells, or weak
    effects, it is next to nothing for every share, and PDCorr decides.

    The observed delta is that of all cells, measured against the control cells of the role target, less noise as in a
    :class:`TrainingBatch`; the predicted one is the mean change of the control cells of the validation sets, which have
    the role input. Energy distances are between the predicted and the observed cells of the sets. Predicted cells are
    linear in the network's share but for the clamp to expression's range, so two predictions serve every share.

    `observed` has for each condition its mean log1p less that of the context's control cells of the role target, [G].
    `network_shares` are the values to score; one for a model without a linear start.
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
        # Energy distances to the observed cells: of control cells with the noise of the sets and without, and of the
        # prediction at each share without.
        self._distances = torch.zeros(2 + len(self.network_shares), dtype=torch.float64)

    @torch.no_grad()
    def add(self, model: ScaleModel, batch: TrainingBatch) -> None:
        """Predict the sets of a batch, and add them to the sums of their conditions."""
        assert batch.place is not None
        control_BSG, mask_BS = batch.control, batch.mask
        start_BSG, whole_BSG = (
            model.predict(control_BSG, mask_BS, batch.condition, batch.key, share) for share in (0.0, 1.0)
        )
        if (rates := model.expression_decoder.rates) is not None:
            assert batch.library is not None
            generator = torch.Generator(device=control_BSG.device).manual_seed(int(batch.key[0]))
            whole_BSG = rates.draw(whole_BSG, batch.library[0], generator)
        weight_BS1 = mask_BS[..., None].double()
        changes_2BG = torch.stack(
            [((x_BSG.double() - control_BSG.double()) * weight_BS1).sum(1) for x_BSG in (start_BSG, whole_BSG)]
        ).cpu()
        rows = [self._row.get(place, -1) for place in batch.place.tolist()]
        scored = [place for place, row in enumerate(rows) if row >= 0 and mask_BS[place].any()]
        for place in scored:
            self._sums[:, rows[place]] += changes_2BG[:, place]
            self._cells[rows[place]] += mask_BS[place].sum().item()
        mixed = (start_BSG + share * (whole_BSG - start_BSG) for share in self.network_shares)
        for i, x_BSG in enumerate(chain([control_BSG, control_BSG], mixed)):
            pair_2BSG = x_BSG.float(), batch.perturbed.float()
            distance_B = energy_distance(*pair_2BSG, mask_BS, unbiased=i > 0) * mask_BS.sum(1)
            self._distances[i] += distance_B[scored].sum().item()

    def best(self, device: torch.device) -> Score:
        """Return the best score over all data-parallel ranks; at a tie that of the smaller share.

        A share that n conditions chose is drawn to 0 by the factor n / (n + 1): one or two conditions often choose one
        that others do worse with.
        """
        packed = torch.cat([self._sums.flatten(), self._cells, self._distances]).to(device)
        torch.distributed.all_reduce(packed, group=parallel_state.get_data_parallel_group())
        sums, cells, distances = packed.cpu().split([self._sums.numel(), len(self._cells), len(self._distances)])
        seen = cells > 0
        start, whole = sums.unflatten(0, self._sums.shape)[:, seen] / cells[seen][:, None]
        observed = self._observed.double()[seen]
        noisy, of_control, *of_shares = distances.tolist()
        scores = [
            Score(
                pdcorr=float(_pearson(start + share * (whole - start), observed).mean()),
                explained=(of_control - distance) / noisy if noisy else 0.0,
                network_share=share,
            )
            for share, distance in zip(self.network_shares, of_shares, strict=True)
        ]
        best = max(scores, key=lambda score: score.value)
        if len(scores) == 1:
            return best
        conditions = int(seen.sum())
        return replace(best, network_share=best.network_share * conditions / (conditions + SHARE_WEIGHT))


def _pearson(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Correlate over the last axis; 0 where one of the two does not vary."""
    return F.cosine_similarity(x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True), dim=-1)
