"""Distances between two populations."""

import torch


def energy_distance(x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``E|x - y| - E|x - x'| / 2 - E|y - y'| / 2``, [B] (Szekely and Rizzo 2013, "Energy statistics").

    Means run over all pairs of valid cells, a cell with itself included (the V-statistic): it is never negative, and
    0 if and only if the two samples are the same. Distances are Euclidean, divided by ``sqrt(G)``, so that the number
    does not grow with the number of genes.

    Parameters
    ----------
    x, y
        Populations [B, S, G] of as many valid cells. Distances do not change with the origin, but their rounding errors
        grow with the distance to it: in bf16 it should lie near the cells' mean.
    mask
        bool [B, S], for both.
    """
    return _EnergyDistance.apply(x, y, mask)


class _EnergyDistance(torch.autograd.Function):
    """The energy distance with its gradient written out.

    Left to autograd, every step of the three distances is kept and gone over again; for G in the thousands that costs
    several times the products.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        genes, wide = x.shape[-1], torch.promote_types(y.dtype, torch.float32)
        valid = mask.to(wide)
        pairs = valid[:, :, None] * valid[:, None, :]
        pairs /= pairs.sum((1, 2), keepdim=True).clamp(min=1)
        squares = [_squares(cells, wide) for cells in (x, y)]
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)

        def distances(a: torch.Tensor, b: torch.Tensor, a2: torch.Tensor, b2: torch.Tensor, weight: float):
            products = torch.bmm(a, b.transpose(1, 2)).to(wide)
            squared = a2[:, :, None] + b2[:, None, :] - 2 * products
            if a is b:
                # A cell meets itself at exactly 0, not at what rounding leaves of a difference of squares.
                squared.masked_fill_(itself, 0)
            # The square root has no gradient at 0. Adding to the square, rather than clamping it, leaves a distance
            # whose energy is never negative.
            distance = ((squared / genes).clamp(min=0) + 1e-6).sqrt()
            weighted = weight * pairs
            # Change of the energy with the squared distance, twice.
            slope = torch.where(squared >= 0, weighted / distance, 0.0) / genes
            return (distance * weighted).sum((1, 2)), slope.masked_fill_(itself, 0) if a is b else slope

        between, across = distances(x, y, squares[0], squares[1], 1.0)
        within_x, inside_x = distances(x, x, squares[0], squares[0], -0.5)
        within_y, inside_y = distances(y, y, squares[1], squares[1], -0.5)
        ctx.save_for_backward(x, y, across, inside_x, inside_y)
        return between + within_x + within_y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: torch.Tensor):
        x, y, across, inside_x, inside_y = ctx.saved_tensors

        def gradient(cells: torch.Tensor, others: torch.Tensor, across: torch.Tensor, inside: torch.Tensor):
            # | a - b |^2 grows by 2 (a - b) with a; a pair within a population moves at both ends.
            own = torch.diag_embed(across.sum(2) + 2 * inside.sum(2)) - 2 * inside
            scale = grad[:, None, None]
            return torch.bmm((own * scale).to(cells.dtype), cells).sub_(
                torch.bmm((across * scale).to(cells.dtype), others)
            )

        grad_x = gradient(x, y, across, inside_x) if ctx.needs_input_grad[0] else None
        grad_y = gradient(y, x, across.transpose(1, 2), inside_y) if ctx.needs_input_grad[1] else None
        return grad_x, grad_y, None


def _squares(cells: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """Squared norm of each cell, [B, S]; a CPU goes from set to set, so that what is widened stays in its cache."""
    sets = cells if cells.device.type == "cpu" and cells.dtype != wide else [cells]
    norms = [torch.linalg.vector_norm(some, dim=-1, dtype=wide).square() for some in sets]
    return torch.stack(norms) if len(norms) > 1 else norms[0].view(cells.shape[:2])


def maximum_mean_discrepancy(x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Squared MMD, ``E k(x, x') + E k(y, y') - 2 E k(x, y)``, [B] (Gretton et al. 2012, "A kernel two-sample test").

    The kernel is a mean of Gaussians of five widths around the mean squared distance between the two populations, which
    spares a width of one's own choice. Means run over all pairs of valid cells, a cell with itself included.

    Parameters
    ----------
    x, y
        Populations [B, S, G] of as many valid cells.
    mask
        bool [B, S], for both.
    """
    origin = y.detach().float().mean(1, keepdim=True)
    x, y = x.float() - origin, y.float() - origin
    pairs = (mask[:, :, None] & mask[:, None, :]).float()
    pairs = pairs / pairs.sum((1, 2), keepdim=True).clamp(min=1)

    def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distance = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None, :] - 2 * a @ b.transpose(1, 2)
        return (distance / a.shape[-1]).clamp(min=0)

    width = (squared(x, y).detach() * pairs).sum((1, 2), keepdim=True).clamp(min=1e-6)

    def mean_kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distance = squared(a, b) / width
        kernel = torch.stack([torch.exp(-distance / factor) for factor in (0.25, 0.5, 1.0, 2.0, 4.0)]).mean(0)
        return (kernel * pairs).sum((1, 2))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
