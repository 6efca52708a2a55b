"""Batches of sets as CSR values, made dense where they are used: a GPU is sent a tenth of the bytes, or less.

The values of a batch lie side by side in contiguous buffers, in page-locked memory where CUDA is there, so that a copy
to a device is one transfer a buffer and can run beside the computation.
"""

from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from bionemo.cellsets.batch import SetBatch, describe_sets
from bionemo.cellsets.densify import gather_rows
from bionemo.cellsets.errors import InputError

if TYPE_CHECKING:
    from bionemo.cellsets.controls import ControlPools
    from bionemo.cellsets.store import CellStore


@dataclass(frozen=True, kw_only=True)
class CsrRows:
    """Rows of the store as it keeps them. Legend: N rows, V stored values, G genes.

    Attributes
    ----------
    values : uint8, uint16, uint32 or float32 [V]
        Counts, or log1p values.
    columns : uint16 or uint32 [V]
        Gene of each value.
    pointers : int64 [N + 1]
        Where each row begins in the two above.
    scale : float32 [N], or None
        What counts are multiplied by before log1p; None for log1p values.
    shape : tuple of int
        Of the dense rows, (..., G).
    """

    values: torch.Tensor
    columns: torch.Tensor
    pointers: torch.Tensor
    scale: torch.Tensor | None
    shape: tuple[int, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CsrRows":
        """Return the rows with every tensor on `device`."""
        return _moved(self, device, non_blocking)

    def densify(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Scatter, normalise and take log1p on the device the rows are on.

        Parameters
        ----------
        out : float32 [*shape], optional
            Contiguous; filled instead of new memory.

        Returns
        -------
        float32 [*shape], log1p
            What `CellStore.read` gives for the same rows, but for rounding.
        """
        device, n_genes = self.values.device, self.shape[-1]
        if out is None:
            out = torch.zeros(self.shape, dtype=torch.float32, device=device)
        else:
            out.zero_()
        lengths = self.pointers[1:] - self.pointers[:-1]
        rows = torch.arange(len(lengths), device=device)
        rows = torch.repeat_interleave(rows, lengths, output_size=len(self.values))
        values = self.values.to(torch.float32)
        if self.scale is not None:
            values = torch.log1p(values * self.scale[rows])
        out.view(-1)[rows * n_genes + self.columns.to(torch.int64)] = values
        return out


@dataclass(frozen=True, kw_only=True)
class CsrBatch:
    """A `SetBatch` whose cells are still CSR; the other attributes are the same.

    Attributes
    ----------
    perturbed, control : CsrRows of shape (B, S, G)
        The cells; masked ones have no values.
    mask, context, perturbation, batch, rows, control_rows, key
        As in `SetBatch`.
    """

    perturbed: CsrRows
    control: CsrRows
    mask: torch.Tensor
    context: torch.Tensor
    perturbation: torch.Tensor
    batch: torch.Tensor
    rows: torch.Tensor
    control_rows: torch.Tensor
    key: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CsrBatch":
        """Return the batch with every tensor on `device`."""
        return _moved(self, device, non_blocking)

    def densify(self) -> SetBatch:
        """Return the batch with dense cells, on the device it is on."""
        others = {item.name: getattr(self, item.name) for item in fields(self)}
        return SetBatch(**others | {"perturbed": self.perturbed.densify(), "control": self.control.densify()})


class CsrBuffers:
    """Memory for the values of one `CsrRows`, used again and again; it grows to the largest."""

    def __init__(self):
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, name: str, length: int, dtype: np.dtype) -> np.ndarray:
        """Return a buffer's first `length` places."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < length:
            # An eighth more than asked for: batches differ little, so it seldom grows again.
            buffer = self._buffers[name] = pinned(np.empty(length + length // 8 + 1, dtype=dtype))
        return buffer.numpy()[:length]


def pinned(array: np.ndarray) -> torch.Tensor:
    """Return a tensor of the array's values, in page-locked memory where CUDA is there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def stage_rows(
    store: "CellStore", rows: np.ndarray, *, buffers: CsrBuffers | None = None, pool: Executor | None = None
) -> CsrRows:
    """Copy rows of the store side by side.

    Parameters
    ----------
    store : CellStore
        Where the cells are.
    rows : int64 array, any shape
        Store rows; -1 for a row without values.
    buffers : CsrBuffers, optional
        Memory to fill; the result is valid until they are used again. Without it fresh memory is taken.
    pool : Executor, optional
        Threads that share the rows.

    Returns
    -------
    CsrRows
        On the CPU.

    Raises
    ------
    InputError
        If the store's arrays contradict each other there.
    """
    buffers = CsrBuffers() if buffers is None else buffers
    wanted = np.ascontiguousarray(rows, dtype=np.int64).reshape(-1)
    at = np.maximum(wanted, 0)
    begin, end = (np.asarray(store.row_pointers[at + i]).astype(np.int64) for i in (0, 1))
    lengths = np.where(wanted < 0, 0, end - begin)
    library_size = np.asarray(store.library_size[at], dtype=np.float64)
    unsound = (begin < 0) | (lengths < 0) | (end > store.n_values) | (lengths > store.n_genes)
    if store.kind == "counts":
        unsound |= (lengths > 0) & ~(library_size > 0)
    unsound &= wanted >= 0
    if not unsound.any():
        pointers = buffers.take("pointers", len(wanted) + 1, np.dtype(np.int64))
        pointers[0] = 0
        np.cumsum(lengths, out=pointers[1:])
        values, columns = (
            buffers.take(name, int(pointers[-1]), stored.dtype.newbyteorder("="))
            for name, stored in (("values", store.data), ("columns", store.columns))
        )
        arrays = (np.asarray(stored) for stored in (store.data, store.columns, store.row_pointers))
        damaged = gather_rows(wanted, pointers[:-1], values, columns, *arrays, store.n_genes, pool=pool)
    else:
        damaged = int(wanted[np.argmax(unsound)])
        values = columns = pointers = np.empty(0)
    if damaged >= 0:
        raise InputError(f"Row {damaged} of the store {store.path} is damaged: copy or prepare the store again")
    scale = None
    if store.kind == "counts":
        scale = buffers.take("scale", len(wanted), np.dtype(np.float32))
        np.divide(store.target_sum, library_size, out=library_size, where=lengths > 0)
        scale[:] = np.where(lengths > 0, library_size, 0)
    return CsrRows(
        values=torch.from_numpy(values),
        columns=torch.from_numpy(columns),
        pointers=torch.from_numpy(pointers),
        scale=None if scale is None else torch.from_numpy(scale),
        shape=(*np.shape(rows), store.n_genes),
    )


def stage_batch(
    store: "CellStore",
    pools: "ControlPools",
    sets: np.ndarray,
    set_size: int,
    buffers: tuple[CsrBuffers, CsrBuffers] | None = None,
    pool: Executor | None = None,
) -> CsrBatch:
    """Stage the cells of sets and of their controls; the parameters are those of `read_batch`."""
    described = describe_sets(store, pools, sets, set_size)
    perturbed, control = (None, None) if buffers is None else buffers
    return CsrBatch(
        perturbed=stage_rows(store, described["rows"].numpy(), buffers=perturbed, pool=pool),
        control=stage_rows(store, described["control_rows"].numpy(), buffers=control, pool=pool),
        **described,
    )


def _moved(tensors, device, non_blocking):
    changes = {
        item.name: value.to(device, non_blocking=non_blocking)
        for item in fields(tensors)
        if isinstance(value := getattr(tensors, item.name), torch.Tensor | CsrRows)
    }
    return replace(tensors, **changes)
