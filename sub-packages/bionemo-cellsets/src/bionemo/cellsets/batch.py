"""A batch of paired sets, as tensors."""

from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from bionemo.cellsets.sampler import set_rows

if TYPE_CHECKING:
    from bionemo.cellsets.controls import ControlPools
    from bionemo.cellsets.store import CellStore


@dataclass(frozen=True, kw_only=True)
class SetBatch:
    """B pairs of a perturbed and a control set under one condition each. Legend: B sets, S cells per set, G genes.

    Attributes
    ----------
    perturbed : float32 [B, S, G], log1p
        The perturbed cells; zeros where masked.
    control : float32 [B, S, G], log1p
        As many control cells of the same (context, batch), drawn apart from the perturbed ones; zeros where masked.
        A set of a control run has other cells here than its own where the run has twice as many, else it may share
        some.
    mask : bool [B, S]
        True for cells, False for padding; all False for a set that pads the last batch of an epoch.
    context, perturbation, batch : int64 [B]
        Indices of the store's category tables; batch is -1 where the store has no batch key. A padding set carries the
        condition of the store's first run, so that every index can be looked up.
    rows, control_rows : int64 [B, S]
        Store rows of the cells, -1 where masked.
    key : int64 [B]
        Non-negative number of the set, for random numbers that do not depend on how sets are spread over ranks.
    """

    perturbed: torch.Tensor
    control: torch.Tensor
    mask: torch.Tensor
    context: torch.Tensor
    perturbation: torch.Tensor
    batch: torch.Tensor
    rows: torch.Tensor
    control_rows: torch.Tensor
    key: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SetBatch":
        """Return the batch with every tensor on `device`."""
        moved = {item.name: getattr(self, item.name).to(device, non_blocking=non_blocking) for item in fields(self)}
        return SetBatch(**moved)


def read_batch(
    store: "CellStore",
    pools: "ControlPools",
    sets: np.ndarray,
    set_size: int,
    buffers: tuple[torch.Tensor, torch.Tensor] | None = None,
    pool: Executor | None = None,
) -> SetBatch:
    """Read the cells of sets and of their controls.

    Parameters
    ----------
    store : CellStore
        Where the cells are.
    pools : ControlPools
        Of that store.
    sets : structured array [B]
        From `SetSampler.step`.
    set_size : int
        S.
    buffers : two float32 tensors [B, S, G], optional
        Filled with the perturbed and the control cells; the batch is valid until they are used again. Without them
        fresh memory is taken.
    pool : Executor, optional
        Threads that share the rows.

    Returns
    -------
    SetBatch
        On the CPU.
    """
    described = describe_sets(store, pools, sets, set_size)
    perturbed, control = buffers or (torch.empty((*described["rows"].shape, store.n_genes)) for _ in range(2))
    store.read(described["rows"].numpy(), perturbed.numpy(), pool=pool)
    store.read(described["control_rows"].numpy(), control.numpy(), pool=pool)
    return SetBatch(perturbed=perturbed, control=control, **described)


def describe_sets(
    store: "CellStore", pools: "ControlPools", sets: np.ndarray, set_size: int
) -> dict[str, torch.Tensor]:
    """Return what a batch says of its sets beside their cells: the attributes of `SetBatch` from `mask` on."""
    rows, control_rows = set_rows(store.runs, sets, set_size), pools.rows(sets, set_size)
    runs = store.runs[np.maximum(sets["run"], 0)]
    condition = {name: torch.from_numpy(runs[name].astype(np.int64)) for name in ("context", "perturbation", "batch")}
    return {
        "mask": torch.from_numpy(rows >= 0),
        "rows": torch.from_numpy(rows),
        "control_rows": torch.from_numpy(control_rows),
        "key": torch.from_numpy(sets["key"].copy()),
        **condition,
    }
