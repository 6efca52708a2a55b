"""Measure how far two populations lie apart, as a differentiable function of their cells."""

import torch


def energy_distance(
    x_BSG: torch.Tensor, y_BSG: torch.Tensor, mask_BS: torch.Tensor, *, unbiased: bool = False
) -> torch.Tensor:
    """Return ``E|x - y| - E|x - x'| / 2 - E|y - y'| / 2``, [B] (Szekely and Rizzo 2013, "Energy statistics").

    Means run over all pairs of valid cells, a cell with itself included (the V-statistic): it is never negative, and
    0 if and only if the two samples are the same. Distances are Euclidean, divided by ``sqrt(G)``, so that the number
    does not grow with the number of genes.

    Parameters
    ----------
    x_BSG, y_BSG
        Populations of as many valid cells, log1p. Distances do not change with the origin, but their rounding errors
        grow with the distance to it: in bf16 it should lie near the cells' mean.
    mask_BS
        True where a cell is there, for both.
    unbiased
        Leave out the pairs of a cell with itself (the U-statistic), without which populations of little spread look
        nearer than they are. It can be negative.
    """
    pairs_BSS = _pairs(mask_BS)

    def mean_distance(squared_BSS: torch.Tensor) -> torch.Tensor:
        # The square root has no gradient at 0. Adding to the square, rather than clamping it, leaves a distance whose
        # energy is never negative.
        return ((squared_BSS + 1e-6).sqrt() * pairs_BSS).sum((1, 2))

    between_B, within_x_B, within_y_B = map(mean_distance, _squared_distances(x_BSG, y_BSG))
    within_B = (within_x_B + within_y_B) / 2
    if unbiased:
        cells_B = mask_BS.sum(1)
        within_B = within_B * cells_B / (cells_B - 1).clamp(min=1)
    return between_B - within_B


def maximum_mean_discrepancy(x_BSG: torch.Tensor, y_BSG: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
    """Return ``E k(x, x') + E k(y, y') - 2 E k(x, y)``, [B] (Gretton et al. 2012, "A kernel two-sample test").

    The kernel is a mean of Gaussians of five widths around the mean squared distance between the two populations, which
    spares a width of one's own choice. Means run over all pairs of valid cells, a cell with itself included.

    Parameters
    ----------
    x_BSG, y_BSG
        Populations of as many valid cells, log1p.
    mask_BS
        True where a cell is there, for both.
    """
    origin_B1G = y_BSG.detach().float().mean(1, keepdim=True)
    pairs_BSS = _pairs(mask_BS)
    between, within_x, within_y = _squared_distances(x_BSG.float() - origin_B1G, y_BSG.float() - origin_B1G)
    width_B11 = (between.detach() * pairs_BSS).sum((1, 2), keepdim=True).clamp(min=1e-6)

    def mean_kernel(squared_BSS: torch.Tensor) -> torch.Tensor:
        kernels = [torch.exp(-squared_BSS / width_B11 / factor) for factor in (0.25, 0.5, 1.0, 2.0, 4.0)]
        return (torch.stack(kernels).mean(0) * pairs_BSS).sum((1, 2))

    return mean_kernel(within_x) + mean_kernel(within_y) - 2 * mean_kernel(between)


def _pairs(mask_BS: torch.Tensor) -> torch.Tensor:
    """Return the weight of each pair of cells in a mean over pairs of valid cells, float32 [B, S, S]."""
    pairs_BSS = (mask_BS[:, :, None] & mask_BS[:, None, :]).float()
    return pairs_BSS / pairs_BSS.sum((1, 2), keepdim=True).clamp(min=1)


def _squared_distances(x_BSG: torch.Tensor, y_BSG: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return ``|x - y|^2 / G``, ``|x - x'|^2 / G`` and ``|y - y'|^2 / G`` of all pairs, float32 or wider [B, S, S].

    Each is ``<a, a> + <b, b> - 2 <a, b>``. The squares are taken from the diagonals of the products within a
    population, so that a cell meets itself at exactly 0 and no further tensor of all genes is made.
    """
    wide = torch.promote_types(x_BSG.dtype, torch.float32)
    xy, xx, yy = (products.to(wide) for products in (x_BSG @ y_BSG.mT, _with_itself(x_BSG), _with_itself(y_BSG)))
    x2, y2 = (products.diagonal(dim1=1, dim2=2) for products in (xx, yy))
    return tuple(
        ((a2[:, :, None] + b2[:, None, :] - 2 * ab) / x_BSG.shape[-1]).clamp(min=0)
        for a2, b2, ab in ((x2, y2, xy), (x2, x2, xx), (y2, y2, yy))
    )


def _with_itself(x_BSG: torch.Tensor) -> torch.Tensor:
    """Return ``x x'``, [B, S, S], for what treats cells alike.

    The gradient G of such a loss is symmetric, so that of x, ``G x + G' x``, is ``2 G x``: one product less.
    """
    half_BSS = x_BSG @ x_BSG.detach().mT
    return half_BSS + (half_BSS - half_BSS.detach())
