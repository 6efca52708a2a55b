"""Hold a batch of paired sets as tensors, and read one."""

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from bionemo.cellsets.loading.memory import Memory
from bionemo.cellsets.sampling.controls import ControlPools
from bionemo.cellsets.sampling.set_slices import set_rows
from bionemo.cellsets.store.cell_store import CellStore


@dataclass(frozen=True, kw_only=True)
class DescribedSets:
    """A `DescribedSets` says of B pairs of sets which cells they have and under which condition; S cells a set.

    Attributes
    ----------
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

    mask: torch.Tensor
    context: torch.Tensor
    perturbation: torch.Tensor
    batch: torch.Tensor
    rows: torch.Tensor
    control_rows: torch.Tensor
    key: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return the batch with every tensor on `device`."""
        moved = {name: part.to(device, non_blocking=non_blocking) for name, part in vars(self).items()}
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class SetBatch(DescribedSets):
    """A `SetBatch` holds B pairs of a perturbed and a control set under one condition each.

    Legend: B sets, S cells per set, G genes. The attributes of `DescribedSets` say what the sets are.

    Attributes
    ----------
    perturbed : float32 or bfloat16 [B, S, G], log1p
        The perturbed cells; zeros where masked.
    control : float32 or bfloat16 [B, S, G], log1p
        As many control cells of the same (context, batch), drawn apart from the perturbed ones; zeros where masked.
        A set of a control run has other cells here than its own where the run has twice as many, else it may share
        some. [B, 0, G] where the loader leaves controls out.
    """

    perturbed: torch.Tensor
    control: torch.Tensor


Described = dict[str, torch.Tensor]
"""The attributes of `DescribedSets` by name; they may have leading axes, for several batches."""


def read_batch(
    store: CellStore,
    described: Described,
    *,
    memory: Memory | None = None,
    pool: Executor | None = None,
    dtype: torch.dtype = torch.float32,
) -> SetBatch:
    """Read the cells of sets and of their controls to a batch on the CPU.

    The cells are written to `memory`, or to fresh memory, as float32 or bfloat16; the threads of a pool share the rows.
    """
    memory = memory or Memory()
    cells = {}
    for name, rows in (("perturbed", described["rows"]), ("control", described["control_rows"])):
        cells[name] = memory.take((*rows.shape, store.n_genes), dtype)
        out = cells[name] if dtype == torch.float32 else cells[name].view(torch.uint16)
        store.read(rows.numpy(), out.numpy(), pool=pool)
    return SetBatch(**cells, **described)


def describe_sets(store: CellStore, pools: ControlPools | None, sets: np.ndarray, set_size: int) -> Described:
    """Say which cells are in sets of a `SetSampler` of S cells, and in their control sets.

    Without pools controls are left out. What is returned has the leading axes of `sets`.
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
