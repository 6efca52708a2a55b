"""Take means under a mask, so arranged that data-parallel ranks add up to one process."""

import torch


def over_cells(value: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
    """Return the float32 mean of ``value`` [B, S, ...] over valid cells and all further axes: [B], 0 without cells."""
    per_cell_BS = value.float().flatten(2).mean(2)
    return torch.where(mask_BS, per_cell_BS, 0.0).sum(1) / mask_BS.sum(1).clamp(min=1)


def mean_over_cells(value_BSG: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
    """Return the float32 mean of each set over valid cells, [B, G], 0 without cells."""
    weight_BS = mask_BS / mask_BS.sum(1, keepdim=True).clamp(min=1)
    return (weight_BS[:, None] @ value_BSG.float())[:, 0]


def over_sets(value_B: torch.Tensor) -> torch.Tensor:
    """Return the sum over sets divided by B, empty sets included as 0.

    The divisor is the same on every rank, so the mean over ranks of this number is what one process with all their
    sets would get, also in the last batch of an epoch, which empty sets fill up.
    """
    return value_B.mean()
