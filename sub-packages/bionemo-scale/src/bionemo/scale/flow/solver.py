"""From the source to the endpoint in K steps."""

from collections.abc import Callable

import torch


def solve(
    transport: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], z_s: torch.Tensor, steps: int
) -> torch.Tensor:
    """``z <- z + (t' - t) / (1 - t) * (g(z, t) - z)`` over K equal steps from t = 0 to t = 1.

    The factor of the last step is exactly 1, so the answer is ``g`` there and no epsilon is needed; with one step the
    answer is ``g(z_s, 0)``.

    Parameters
    ----------
    transport
        ``g(z, t)`` for z [B, S, D] and t [B].
    z_s
        Source [B, S, D].
    steps
        K, at least 1.
    """
    z = z_s
    for step in range(steps):
        t = torch.full((z.shape[0],), step / steps, device=z.device)
        z = z + (transport(z, t) - z) / (steps - step)
    return z
