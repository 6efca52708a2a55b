"""Walk the straight path between source and endpoint."""

import torch


def interpolate(z_s_BSD: torch.Tensor, z1_BSD: torch.Tensor, t_B: torch.Tensor) -> torch.Tensor:
    """Return ``z_t = (1 - t) z_s + t z1``, [B, S, D] (Lipman et al. 2023, "Flow matching for generative modeling").

    Parameters
    ----------
    z_s_BSD, z1_BSD
        Source and endpoint.
    t_B
        Times in [0, 1].
    """
    t_B11 = t_B[:, None, None].to(z1_BSD.dtype)
    return (1 - t_B11) * z_s_BSD + t_B11 * z1_BSD
