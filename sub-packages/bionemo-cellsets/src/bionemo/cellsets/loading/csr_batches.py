"""Hold batches of sets as CSR values, made dense where they are used: a GPU is sent a tenth of the bytes, or less.

The values of rows lie side by side in contiguous buffers, in page-locked memory where CUDA is there, so that a copy to
a device is one transfer a buffer and can run beside the computation.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from bionemo.cellsets.loading.batches import Described, DescribedSets, SetBatch, unstacked
from bionemo.cellsets.loading.memory import fresh
from bionemo.cellsets.store.cell_store import CellStore


@dataclass(frozen=True, kw_only=True)
class CsrRows:
    """A `CsrRows` holds rows as the store keeps them. Legend: N rows, V stored values, G genes.

    Attributes
    ----------
    values : uint8, uint16, uint32 or float32 [V]
        Counts, or log1p values.
    columns : uint16 or uint32 [V]
        Gene of each value.
    pointers : int64 [N + 1]
        The place at which each row begins in the two above.
    scale : float64 [N], or None
        What counts are multiplied by before log1p; None for log1p values.
    shape : tuple of int
        Shape of the dense rows, (..., G).
    """

    values: torch.Tensor
    columns: torch.Tensor
    pointers: torch.Tensor
    scale: torch.Tensor | None
    shape: tuple[int, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CsrRows":
        """Return the rows with every tensor on `device`."""
        tensors = {name: part for name, part in vars(self).items() if isinstance(part, torch.Tensor)}
        return replace(self, **{name: part.to(device, non_blocking=non_blocking) for name, part in tensors.items()})

    def densify(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Scatter, normalise and take log1p on the device the rows are on; no value comes back to the host.

        Return what `CellStore.read` gives for the same rows, log1p, float32 or bfloat16 [*shape]: both compute in
        float64 and round once to float32, so they differ only where two float64 logarithms lie on both sides of a
        boundary, one value in 10^8 at most.
        """
        device, n_genes = self.values.device, self.shape[-1]
        out = torch.zeros(self.shape, dtype=dtype, device=device)
        lengths = self.pointers[1:] - self.pointers[:-1]
        rows = torch.arange(len(lengths), device=device)
        rows = torch.repeat_interleave(rows, lengths, output_size=len(self.values))
        if self.scale is None:
            values = self.values
        else:
            values = torch.log1p(self.values.to(torch.float64) * self.scale[rows]).to(torch.float32)
        out.view(-1)[rows * n_genes + self.columns.to(torch.int64)] = values.to(dtype)
        return out


@dataclass(frozen=True, kw_only=True)
class CsrBatch(DescribedSets):
    """A `CsrBatch` is a `SetBatch` whose cells, of shape (B, S, G), are still CSR; masked ones have no values."""

    perturbed: CsrRows
    control: CsrRows

    def densify(self, dtype: torch.dtype = torch.float32) -> SetBatch:
        """Return the batch with dense cells of `dtype`, on the device it is on."""
        dense = {"perturbed": self.perturbed.densify(dtype), "control": self.control.densify(dtype)}
        return SetBatch(**vars(self) | dense)


def stage_batches(store: CellStore, described: Described, *, pool: Executor | None = None) -> Iterator[CsrBatch]:
    """Stage the cells of sets and of their controls, and yield batch by batch, on the CPU.

    `described` is that of several batches; the threads of a pool share the rows.
    """
    sides = [_lay_out(store, described[name].numpy()) for name in ("rows", "control_rows")]
    for one, *laid_out in zip(unstacked(described), *sides, strict=True):
        perturbed, control = (_gathered(store, side, pool) for side in laid_out)
        yield CsrBatch(perturbed=perturbed, control=control, **one)


class _LaidOut(NamedTuple):
    """A `_LaidOut` is some rows whose places side by side are known."""

    rows: np.ndarray  # int64 [..., N]
    pointers: torch.Tensor
    scale: torch.Tensor


def _lay_out(store: CellStore, rows: np.ndarray) -> list[_LaidOut]:
    """Say where the values of the rows of each batch, [K, ...], go; one call for all costs little more than for one."""
    from bionemo.cellsets.store import kernels

    wanted = np.ascontiguousarray(rows, dtype=np.int64).reshape(len(rows), -1)
    n_batches, n_rows = wanted.shape
    pointers = fresh((n_batches, n_rows + 1), torch.int64)
    scale = fresh((n_batches, n_rows if store.kind == "counts" else 0), torch.float64)
    stored = (np.asarray(store.row_pointers), np.asarray(store.library_size), store.target_sum)
    sizes = (store.n_values, store.n_genes)
    store.refuse_damaged(int(kernels.lay_out(wanted, pointers.numpy(), scale.numpy(), *stored, *sizes)))
    return [_LaidOut(*parts) for parts in zip(rows, pointers.unbind(), scale.unbind(), strict=True)]


def _gathered(store: CellStore, side: _LaidOut, pool: Executor | None) -> CsrRows:
    """Copy the values of one side of a batch."""
    first = side.pointers.numpy()
    values, columns = (fresh((int(first[-1]),), _torch_type(part.dtype)) for part in (store.data, store.columns))
    if len(values):
        store.gather(side.rows.reshape(-1), first[:-1], values.numpy(), columns.numpy(), pool)
    scale = side.scale if store.kind == "counts" else None
    shape = (*side.rows.shape, store.n_genes)
    return CsrRows(values=values, columns=columns, pointers=side.pointers, scale=scale, shape=shape)


@functools.cache
def _torch_type(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
