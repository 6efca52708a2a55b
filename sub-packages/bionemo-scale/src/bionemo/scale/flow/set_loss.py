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
        Populations [B, S, G] of as many valid cells.
    mask
        bool [B, S], for both.
    """
    # Distances do not change with the origin, but their rounding errors grow with the distance to it.
    origin = y.detach().float().mean(1, keepdim=True)
    x, y = x.float() - origin, y.float() - origin
    pairs = (mask[:, :, None] & mask[:, None, :]).float()
    pairs = pairs / pairs.sum((1, 2), keepdim=True).clamp(min=1)
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)

    def mean_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        squared = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None, :] - 2 * a @ b.transpose(1, 2)
        if a is b:
            # A cell meets itself at exactly 0, not at what rounding leaves of a difference of squares.
            squared = squared.masked_fill(itself, 0)
        # The square root has no gradient at 0. Adding to the square, rather than clamping it, leaves a distance whose
        # energy is never negative.
        return (((squared / a.shape[-1]).clamp(min=0) + 1e-6).sqrt() * pairs).sum((1, 2))

    return mean_distance(x, y) - 0.5 * mean_distance(x, x) - 0.5 * mean_distance(y, y)


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
