"""Choose where the transport starts."""

import torch

from bionemo.scale.flow.reduce import over_cells


def source(
    z0_BSD: torch.Tensor, gaussian_BSD: torch.Tensor, control_share: float, mask_BS: torch.Tensor
) -> torch.Tensor:
    """Return ``z_s = a * z0 + sqrt(1 - a^2) * r * noise``, which keeps the mean square of ``z0`` whatever ``a`` is.

    Parameters
    ----------
    z0_BSD
        Control latents.
    gaussian_BSD
        Standard normal noise.
    control_share
        ``a`` in [0, 1]: 1 starts from the control cells, 0 from noise.
    mask_BS
        True where a cell is there.

    Returns
    -------
    torch.Tensor
        [B, S, D]. ``r`` is the root mean square of each set's ``z0``, so that noise and latents have one scale
        without a running statistic.
    """
    r_B11 = over_cells(z0_BSD.detach().square(), mask_BS).sqrt().to(z0_BSD.dtype)[:, None, None]
    return control_share * z0_BSD + (1 - control_share**2) ** 0.5 * r_B11 * gaussian_BSD.to(z0_BSD.dtype)
