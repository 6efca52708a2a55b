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


def squared_error(predicted: torch.Tensor, observed: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of ``(predicted - observed)^2`` over the valid cells and all genes, [B, S, G] to [B]; as `over_cells`."""
    return over_cells(_SquaredError.apply(predicted, observed)[..., None], mask)


class _SquaredError(torch.autograd.Function):
    """Mean square of the difference over the last axis; keeps the difference and goes over it once for the gradient."""

    @staticmethod
    def forward(ctx, predicted: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        difference = predicted - observed
        ctx.save_for_backward(difference)
        ctx.dtypes = predicted.dtype, observed.dtype
        norm = torch.linalg.vector_norm(difference, dim=-1, dtype=torch.promote_types(difference.dtype, torch.float32))
        return norm.square() / difference.shape[-1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: torch.Tensor):
        (difference,) = ctx.saved_tensors
        slope = difference * (grad * (2 / difference.shape[-1])).to(difference.dtype).unsqueeze(-1)
        needs_predicted, needs_observed = ctx.needs_input_grad
        return (
            slope.to(ctx.dtypes[0]) if needs_predicted else None,
            -slope.to(ctx.dtypes[1]) if needs_observed else None,
        )
