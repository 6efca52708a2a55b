"""Bring cells on disk to sets in memory: a memory-mapped store sorted by condition, its sampler and its loader.

The names that need torch, AnnData or numba are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bionemo.cellsets.sampling.sampler import SetSampler
from bionemo.cellsets.store.cell_store import CellStore
from bionemo.cellsets.store.inspection import ContextSummary, Inspection, describe

if TYPE_CHECKING:
    from bionemo.cellsets.loading.batches import SetBatch
    from bionemo.cellsets.loading.csr_batches import CsrBatch
    from bionemo.cellsets.loading.device_batches import DeviceBatches
    from bionemo.cellsets.loading.loader import SetLoader
    from bionemo.cellsets.preparation.prepare import prepare

__all__ = [
    "CellStore",
    "ContextSummary",
    "CsrBatch",
    "DeviceBatches",
    "Inspection",
    "SetBatch",
    "SetLoader",
    "SetSampler",
    "describe",
    "prepare",
]

_LAZY = {
    "CsrBatch": "loading.csr_batches",
    "DeviceBatches": "loading.device_batches",
    "SetBatch": "loading.batches",
    "SetLoader": "loading.loader",
    "prepare": "preparation.prepare",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
