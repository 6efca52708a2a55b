"""How likely counts are."""

import torch


def negative_binomial_loss(counts: torch.Tensor, mean: torch.Tensor, inverse_dispersion: torch.Tensor) -> torch.Tensor:
    """``-log NB(counts)`` of a negative binomial with ``variance = mean + mean^2 / inverse_dispersion``.

    The parametrisation of Lopez et al. 2018, "Deep generative modeling for single-cell transcriptomics".

    Parameters
    ----------
    counts
        Whole numbers, [..., G].
    mean
        Above 0, [..., G].
    inverse_dispersion
        Above 0, [G].

    Returns
    -------
    torch.Tensor
        float32 [..., G], in nats; at least 0.
    """
    counts, mean, theta = counts.float(), mean.float().clamp(min=1e-8), inverse_dispersion.float()
    log_theta_mean = torch.log(theta + mean)
    return (
        torch.lgamma(theta)
        + torch.lgamma(counts + 1)
        - torch.lgamma(counts + theta)
        - theta * (torch.log(theta) - log_theta_mean)
        - counts * (torch.log(mean) - log_theta_mean)
    )
