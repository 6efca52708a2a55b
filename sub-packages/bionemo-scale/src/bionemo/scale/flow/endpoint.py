"""Compare predicted endpoints with encoded ones: the endpoint loss, and the velocity loss it stands for."""

import torch

from bionemo.scale.flow.reduce import over_cells

LEAST_TIME_LEFT = 1e-3
"""A velocity over less time than this is rounding error."""


def endpoint_loss(z1_hat_BSD: torch.Tensor, z1_BSD: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
    """Return ``|| z1_hat - sg(z1) ||^2`` in units of the set's mean square latent, [B] (SCALE, arXiv:2603.17380).

    The target is detached: the encoder cannot lower this loss by moving what it is compared with. The unit makes it
    independent of the latents' scale, which no other term fixes: 1 is what predicting 0 scores.

    Parameters
    ----------
    z1_hat_BSD, z1_BSD
        Predicted and encoded endpoint.
    mask_BS
        True where a cell is there.
    """
    z1_BSD = z1_BSD.detach()
    error_B = over_cells((z1_hat_BSD - z1_BSD).square(), mask_BS)
    return error_B / over_cells(z1_BSD.square(), mask_BS).clamp(min=1e-8)


def velocity_loss(
    z1_hat_BSD: torch.Tensor, z1_BSD: torch.Tensor, t_B: torch.Tensor, mask_BS: torch.Tensor
) -> torch.Tensor:
    """Return ``|| v_hat - (z1 - z_s) ||^2`` in the same units, [B] (Lipman et al. 2023, "Flow matching").

    On the straight path ``z1 - z_s = (z1 - z_t) / (1 - t)``, and ``v_hat = (z1_hat - z_t) / (1 - t)``: the squared
    error of the velocity is that of the endpoint divided by ``(1 - t)^2``.

    Parameters
    ----------
    z1_hat_BSD, z1_BSD
        Predicted and encoded endpoint.
    t_B
        Times in [0, 1).
    mask_BS
        True where a cell is there.
    """
    return endpoint_loss(z1_hat_BSD, z1_BSD, mask_BS) / (1 - t_B).clamp(min=LEAST_TIME_LEFT).square()
