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
    hide_token: torch.Tensor
    """bool [B], True where the learned part of perturbation tokens is hidden."""
    hide_genes: torch.Tensor | None
    """bool [2, B, S, G], True where the encoder does not see a gene of a control or a perturbed cell; None if it sees
    all."""


def set_noise(
    keys: torch.Tensor,
    cells: int,
    width: int,
    *,
    device: torch.device,
    start_fraction: float = 0.0,
    context_dropout: float = 0.0,
    token_dropout: float = 0.0,
    gene_dropout: float = 0.0,
    genes: int = 0,
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
    device
        Where to draw; the numbers differ between kinds of device.
    start_fraction
        Share of sets with t = 0.
    context_dropout, token_dropout
        Share of sets whose context, or learned perturbation tokens, are hidden.
    gene_dropout
        Share of genes hidden in each cell; 0 draws none.
    genes
        G, for ``gene_dropout``.
    """
    times, gaussians, hidden, tokens, masks = [], [], [], [], []
    generator = torch.Generator(device=device)
    for key in keys.tolist():
        generator.manual_seed(key)
        start, t, hide = torch.rand(3, generator=generator, device=device)
        times.append(torch.where(start < start_fraction, torch.zeros_like(t), t))
        hidden.append(hide < context_dropout)
        gaussians.append(torch.randn(cells, width, generator=generator, device=device))
        tokens.append(torch.rand((), generator=generator, device=device) < token_dropout)
        if gene_dropout:
            masks.append(torch.rand(2, cells, genes, generator=generator, device=device) < gene_dropout)
    hide_genes = torch.stack(masks, dim=1) if masks else None
    return SetNoise(torch.stack(times), torch.stack(gaussians), torch.stack(hidden), torch.stack(tokens), hide_genes)
