"""Draw random numbers that depend on the set alone, not on who computes it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SetNoise:
    """A `SetNoise` holds what a training step draws for each of B sets."""

    t_B: torch.Tensor
    """float32, times in [0, 1)."""
    gaussian_BSD: torch.Tensor
    """float32, standard normal."""
    hide_context_B: torch.Tensor
    """bool, True where the context and batch tokens are hidden."""
    hide_token_B: torch.Tensor
    """bool, True where the learned part of perturbation tokens is hidden."""
    hide_genes_2BSG: torch.Tensor | None
    """bool, True where the encoder does not see a gene of a control or a perturbed cell; None if it sees all."""


def set_noise(
    key_B: torch.Tensor,
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
    key_B
        int64 on the CPU, one non-negative key a set.
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
    uniform, gaussian, hide_genes = [], [], []
    generator = torch.Generator(device=device)
    for key in key_B.tolist():
        generator.manual_seed(key)
        first = torch.rand(3, generator=generator, device=device)
        gaussian.append(torch.randn(cells, width, generator=generator, device=device))
        uniform.append(torch.cat([first, torch.rand(1, generator=generator, device=device)]))
        if gene_dropout:
            hide_genes.append(torch.rand(2, cells, genes, generator=generator, device=device) < gene_dropout)
    start_B, t_B, context_B, token_B = torch.stack(uniform).unbind(1)
    return SetNoise(
        t_B=t_B.masked_fill(start_B < start_fraction, 0.0),
        gaussian_BSD=torch.stack(gaussian),
        hide_context_B=context_B < context_dropout,
        hide_token_B=token_B < token_dropout,
        hide_genes_2BSG=torch.stack(hide_genes, dim=1) if hide_genes else None,
    )
