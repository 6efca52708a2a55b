"""Means under a mask, so arranged that data-parallel ranks add up to one process."""

import torch


def over_cells(value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of ``value`` [B, S, ...] over the valid cells and all further axes: [B], 0 for an empty set."""
    per_cell = value.float().flatten(2).mean(2)
    return torch.where(mask, per_cell, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def over_sets(value: torch.Tensor) -> torch.Tensor:
    """Sum over sets divided by B, empty sets included as 0.

    The divisor is the same on every rank, so the mean over ranks of this number is what one process with all their
    sets would get, also in the last batch of an epoch, which empty sets fill up.
    """
    return value.mean()
