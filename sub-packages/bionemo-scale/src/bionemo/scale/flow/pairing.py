"""Which perturbed cell each control cell is paired with."""

import torch
from scipy.optimize import linear_sum_assignment


def optimal_transport_order(z0: torch.Tensor, z1: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Order of the perturbed cells that minimises the summed squared distance to the control cells of their set.

    Minibatch optimal transport (Tong et al. 2024, "Improving and generalizing flow-based generative models with
    minibatch optimal transport"), solved exactly on the CPU.

    Parameters
    ----------
    z0, z1
        Latents [B, S, D].
    mask
        bool [B, S]; valid cells come first and stay among themselves.

    Returns
    -------
    torch.Tensor
        int64 [B, S]; ``z1.gather(1, order[..., None].expand_as(z1))`` pairs row i with control cell i.
    """
    order = torch.arange(z0.shape[1]).repeat(z0.shape[0], 1)
    cost = torch.cdist(z0.detach().float(), z1.detach().float()).square().cpu()
    for row, count in enumerate(mask.sum(1).tolist()):
        _, columns = linear_sum_assignment(cost[row, :count, :count].numpy())
        order[row, :count] = torch.from_numpy(columns)
    return order.to(z0.device)
