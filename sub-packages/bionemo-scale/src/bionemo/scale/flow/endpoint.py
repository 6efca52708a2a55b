"""The endpoint loss."""

import torch

from bionemo.scale.flow.reduce import over_cells


def endpoint_loss(z1_hat: torch.Tensor, z1: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``|| z1_hat - sg(z1) ||^2`` in units of the set's mean square latent, [B].

    The target is detached: the encoder cannot lower this loss by moving what it is compared with. The unit makes it
    independent of the latents' scale, which no other term fixes: 1 is what predicting 0 scores.

    It is a loss on the endpoint, not on the velocity. With ``v_hat = (z1_hat - z_t) / (1 - t)`` the squared error of
    the velocity is this squared error divided by ``(1 - t)^2``.

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
