"""Hold a batch of paired sets as tensors, and read one."""

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from bionemo.cellsets.loading.memory import Memory
from bionemo.cellsets.sampling.set_slices import set_rows

if TYPE_CHECKING:
    from bionemo.cellsets.sampling.controls import ControlPools
    from bionemo.cellsets.store.cell_store import CellStore


@dataclass(frozen=True, kw_only=True)
class SetBatch:
    """A `SetBatch` holds B pairs of a perturbed and a control set under one condition each.

    Legend: B sets, S cells per set, G genes.

    Attributes
    ----------
    perturbed : float32 or bfloat16 [B, S, G], log1p
        The perturbed cells; zeros where masked.
    control : float32 or bfloat16 [B, S, G], log1p
        As many control cells of the same (context, batch), drawn apart from the perturbed ones; zeros where masked.
        A set of a control run has other cells here than its own where the run has twice as many, else it may share
        some. [B, 0, G] where the loader leaves controls out.
    mask : bool [B, S]
        True for cells, False for padding; all False for a set that pads the last batch of an epoch.
    context, perturbation, batch : int64 [B]
        Indices of the store's category tables; batch is -1 where the store has no batch key. A padding set carries the
        condition of the store's first run, so that every index can be looked up.
    rows, control_rows : int64 [B, S]
        Store rows of the cells, -1 where masked; `control_rows` is [B, 0] where there are no controls.
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

    @property
    def n_bytes(self) -> int:
        """Return the bytes of the cells."""
        return self.perturbed.nbytes + self.control.nbytes

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SetBatch":
        """Return the batch with every tensor on `device`."""
        moved = {item.name: getattr(self, item.name).to(device, non_blocking=non_blocking) for item in fields(self)}
        return SetBatch(**moved)


Described = dict[str, torch.Tensor]
"""What a batch says of its sets beside their cells: the attributes of `SetBatch` from `mask` on."""


def read_batch(
    store: "CellStore",
    described: Described,
    *,
    memory: Memory | None = None,
    pool: Executor | None = None,
    dtype: torch.dtype = torch.float32,
) -> SetBatch:
    """Read the cells of sets and of their controls.

    Parameters
    ----------
    store : CellStore
        Where the cells are.
    described : dict
        The sets, from `describe_sets`.
    memory : Memory, optional
        What the cells are written to; without it fresh memory.
    pool : Executor, optional
        Threads that share the rows.
    dtype : {torch.float32, torch.bfloat16}
        Of the cells.

    Returns
    -------
    SetBatch
        On the CPU.
    """
    memory = memory or Memory()
    cells = {}
    for name, rows in (("perturbed", described["rows"]), ("control", described["control_rows"])):
        cells[name] = memory.take((*rows.shape, store.n_genes), dtype)
        out = cells[name] if dtype == torch.float32 else cells[name].view(torch.uint16)
        store.read(rows.numpy(), out.numpy(), pool=pool)
    return SetBatch(**cells, **described)


def describe_sets(store: "CellStore", pools: "ControlPools | None", sets: np.ndarray, set_size: int) -> Described:
    """Say which cells are in sets.

    Parameters
    ----------
    store : CellStore
        Where the cells are.
    pools : ControlPools, optional
        Of that store; None leaves controls out.
    sets : structured array [..., B]
        From `SetSampler`.
    set_size : int
        S.

    Returns
    -------
    dict
        With the leading axes of `sets`.
    """
    rows = set_rows(store.runs, sets, set_size)
    control_rows = np.empty((*sets.shape, 0), dtype=np.int64) if pools is None else pools.rows(sets, set_size)
    runs = np.maximum(sets["run"], 0)
    conditions = {name: store.runs[name][runs].astype(np.int64) for name in ("context", "perturbation", "batch")}
    numbers = conditions | {"rows": rows, "control_rows": control_rows, "key": sets["key"].copy(), "mask": rows >= 0}
    return {name: torch.from_numpy(array) for name, array in numbers.items()}


def unstacked(described: Described) -> Iterator[Described]:
    """Yield what describes each of several batches."""
    for parts in zip(*(tensor.unbind() for tensor in described.values()), strict=True):
        yield dict(zip(described, parts, strict=True))
