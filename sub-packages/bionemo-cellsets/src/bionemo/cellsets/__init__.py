"""Cells on disk to sets in memory: a memory-mapped store sorted by condition, and the sampler and loader that read it.

The names that need torch, AnnData or numba are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bionemo.cellsets.errors import InputError
from bionemo.cellsets.inspection import ContextSummary, Inspection, describe
from bionemo.cellsets.sampler import SetSampler
from bionemo.cellsets.split import Split
from bionemo.cellsets.store import CellStore

if TYPE_CHECKING:
    from bionemo.cellsets.batch import SetBatch
    from bionemo.cellsets.loader import SetLoader
    from bionemo.cellsets.preparation import prepare
    from bionemo.cellsets.simulation import simulate
    from bionemo.cellsets.staging import CsrBatch
    from bionemo.cellsets.upload import DeviceBatches

__all__ = [
    "CellStore",
    "ContextSummary",
    "CsrBatch",
    "DeviceBatches",
    "InputError",
    "Inspection",
    "SetBatch",
    "SetLoader",
    "SetSampler",
    "Split",
    "describe",
    "prepare",
    "simulate",
]

_LAZY = {
    "CsrBatch": "staging",
    "DeviceBatches": "upload",
    "SetBatch": "batch",
    "SetLoader": "loader",
    "prepare": "preparation",
    "simulate": "simulation",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
