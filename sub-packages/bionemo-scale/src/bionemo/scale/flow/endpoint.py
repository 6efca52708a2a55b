"""The endpoint loss, and the velocity loss it stands for."""

import torch

from bionemo.scale.flow.reduce import over_cells

LEAST_TIME_LEFT = 1e-3
"""A velocity over less time than this is rounding error."""


def endpoint_loss(z1_hat: torch.Tensor, z1: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``|| z1_hat - sg(z1) ||^2`` in units of the set's mean square latent, [B].

    The target is detached: the encoder cannot lower this loss by moving what it is compared with. The unit makes it
    independent of the latents' scale, which no other term fixes: 1 is what predicting 0 scores.

    Parameters
    ----------
    z1_hat, z1
        Predicted and encoded endpoint [B, S, D].
    mask
        bool [B, S].
    """
    z1 = z1.detach()
    error = over_cells((z1_hat - z1).square(), mask)
    return error / over_cells(z1.square(), mask).clamp(min=1e-8)


def velocity_loss(z1_hat: torch.Tensor, z1: torch.Tensor, t: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``|| v_hat - (z1 - z_s) ||^2`` in the same units, [B] (Lipman et al. 2023, "Flow matching").

    On the straight path ``z1 - z_s = (z1 - z_t) / (1 - t)``, and ``v_hat = (z1_hat - z_t) / (1 - t)``: the squared
    error of the velocity is that of the endpoint divided by ``(1 - t)^2``.

    Parameters
    ----------
    z1_hat, z1
        Predicted and encoded endpoint [B, S, D].
    t
        Times in [0, 1), [B].
    mask
        bool [B, S].
    """
    return endpoint_loss(z1_hat, z1, mask) / (1 - t).clamp(min=LEAST_TIME_LEFT).square()
