"""Take cells from the source to the endpoint in K steps."""

from collections.abc import Callable

import torch


def solve(
    transport: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], z_s_BSD: torch.Tensor, steps: int
) -> torch.Tensor:
    """Repeat ``z <- z + (t' - t) / (1 - t) * (g(z, t) - z)`` over K equal steps from t = 0 to t = 1.

    This is Euler's method on the velocity ``(g - z) / (1 - t)``. The factor of the last step is exactly 1, so the
    answer is ``g`` there and no epsilon is needed; with one step the answer is ``g(z_s, 0)``.

    Parameters
    ----------
    transport
        ``g(z_BSD, t_B)``, the endpoint [B, S, D].
    z_s_BSD
        Source.
    steps
        K, at least 1.
    """
    z_BSD = z_s_BSD
    for step in range(steps):
        t_B = torch.full((z_BSD.shape[0],), step / steps, device=z_BSD.device)
        z_BSD = z_BSD + (transport(z_BSD, t_B) - z_BSD) / (steps - step)
    return z_BSD
