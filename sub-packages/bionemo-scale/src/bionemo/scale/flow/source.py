"""Where the transport starts."""

import torch

from bionemo.scale.flow.reduce import over_cells


def source(z0: torch.Tensor, gaussian: torch.Tensor, control_share: float, mask: torch.Tensor) -> torch.Tensor:
    """``z_s = a * z0 + sqrt(1 - a^2) * r * noise``, which keeps the mean square of ``z0`` whatever ``a`` is.

    Parameters
    ----------
    z0
        Control latents [B, S, D].
    gaussian
        Standard normal noise [B, S, D].
    control_share
        ``a`` in [0, 1]: 1 starts from the control cells, 0 from noise.
    mask
        bool [B, S].

    Returns
    -------
    torch.Tensor
        [B, S, D]. ``r`` is the root mean square of each set's ``z0``, so that noise and latents have one scale
        without a running statistic.
    """
    scale = over_cells(z0.detach().square(), mask).sqrt().to(z0.dtype)[:, None, None]
    return control_share * z0 + (1 - control_share**2) ** 0.5 * scale * gaussian.to(z0.dtype)
