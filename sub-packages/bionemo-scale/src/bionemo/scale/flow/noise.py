"""Random numbers that depend on the set alone, not on who computes it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SetNoise:
    """What a training step draws for each of B sets."""

    t: torch.Tensor
    """float32 [B], times in [0, 1)."""
    gaussian: torch.Tensor
    """float32 [B, S, D], standard normal."""
    hide_context: torch.Tensor
    """bool [B], True where the context and batch tokens are hidden."""


def set_noise(
    keys: torch.Tensor, cells: int, width: int, *, start_fraction: float, context_dropout: float, device: torch.device
) -> SetNoise:
    """Draw the noise of each set from its own key.

    A set gets the same numbers whichever rank, batch or position it lands in. Tensor-parallel ranks therefore agree
    without talking, a resumed run repeats what the first would have drawn, and a run on two data-parallel ranks sees
    what one rank sees.

    Parameters
    ----------
    keys
        int64 [B] on the CPU, one non-negative key a set.
    cells, width
        S and D.
    start_fraction
        Share of sets with t = 0.
    context_dropout
        Share of sets whose context is hidden.
    device
        Where to draw; the numbers differ between kinds of device.
    """
    times, gaussians, hidden = [], [], []
    generator = torch.Generator(device=device)
    for key in keys.tolist():
        generator.manual_seed(key)
        start, t, hide = torch.rand(3, generator=generator, device=device)
        times.append(torch.where(start < start_fraction, torch.zeros_like(t), t))
        hidden.append(hide < context_dropout)
        gaussians.append(torch.randn(cells, width, generator=generator, device=device))
    return SetNoise(torch.stack(times), torch.stack(gaussians), torch.stack(hidden))
