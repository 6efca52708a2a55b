"""Choose which perturbed cell each control cell is paired with."""

import torch
from scipy.optimize import linear_sum_assignment


def optimal_transport_order(z0_BSD: torch.Tensor, z1_BSD: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
    """Order the perturbed cells so that their summed squared distance to the control cells of their set is least.

    This is minibatch optimal transport (Tong et al. 2024, "Improving and generalizing flow-based generative models
    with minibatch optimal transport"), solved exactly on the CPU: a GPU waits for it.

    Parameters
    ----------
    z0_BSD, z1_BSD
        Latents of control and perturbed cells.
    mask_BS
        True where a cell is there; valid cells come first and stay among themselves.

    Returns
    -------
    torch.Tensor
        int64 [B, S]; row i of :func:`in_order` is then paired with control cell i.
    """
    cost_BSS = torch.cdist(z0_BSD.detach().float(), z1_BSD.detach().float()).square().cpu()
    order_BS = torch.arange(z0_BSD.shape[1]).repeat(z0_BSD.shape[0], 1)
    for row, count in enumerate(mask_BS.sum(1).tolist()):
        _, columns = linear_sum_assignment(cost_BSS[row, :count, :count].numpy())
        order_BS[row, :count] = torch.from_numpy(columns)
    return order_BS.to(z0_BSD.device)


def in_order(cells: torch.Tensor, order_BS: torch.Tensor | None) -> torch.Tensor:
    """Reorder the cells of each set, [B, S, ...]; None leaves them as they are."""
    if order_BS is None:
        return cells
    return torch.take_along_dim(cells, order_BS.reshape(*order_BS.shape, *[1] * (cells.dim() - 2)), dim=1)
