"""Say how likely counts are."""

import torch


def negative_binomial_loss(
    counts_BSG: torch.Tensor, mean_BSG: torch.Tensor, inverse_dispersion_G: torch.Tensor
) -> torch.Tensor:
    """Return ``-log NB(counts)`` of a negative binomial with ``variance = mean + mean^2 / inverse_dispersion``.

    The parametrisation is that of Lopez et al. 2018, "Deep generative modeling for single-cell transcriptomics".

    Parameters
    ----------
    counts_BSG
        Whole numbers; any leading axes will do.
    mean_BSG, inverse_dispersion_G
        Above 0.

    Returns
    -------
    torch.Tensor
        float32 [B, S, G], in nats; at least 0.
    """
    counts_BSG, mean_BSG = counts_BSG.float(), mean_BSG.float().clamp(min=1e-8)
    theta_G = inverse_dispersion_G.float()
    log_theta_mean_BSG = torch.log(theta_G + mean_BSG)
    return (
        torch.lgamma(theta_G)
        + torch.lgamma(counts_BSG + 1)
        - torch.lgamma(counts_BSG + theta_G)
        - theta_G * (torch.log(theta_G) - log_theta_mean_BSG)
        - counts_BSG * (torch.log(mean_BSG) - log_theta_mean_BSG)
    )
