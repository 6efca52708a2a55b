"""The straight path between source and endpoint."""

import torch


def interpolate(z_s: torch.Tensor, z1: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """``z_t = (1 - t) z_s + t z1`` (Lipman et al. 2023, "Flow matching for generative modeling").

    Parameters
    ----------
    z_s, z1
        Source and endpoint [B, S, D].
    t
        Times in [0, 1], [B].
    """
    t = t[:, None, None].to(z1.dtype)
    return (1 - t) * z_s + t * z1
