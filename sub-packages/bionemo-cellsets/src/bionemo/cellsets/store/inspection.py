"""Summarise a store as numbers and small tables, for a command line or a notebook to show."""

from dataclasses import dataclass

import numpy as np

from bionemo.cellsets.store.cell_store import CellStore
from bionemo.screens.controls import PARTS

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class ContextSummary:
    """A `ContextSummary` counts what one context of a store has."""

    context: str
    cells: int
    """Cells of the context, its control cells among them."""
    controls: int
    perturbations: int
    """Labels other than the control."""
    batches: int
    """Batches that it has cells in; 0 where the store has no batch key."""
    batches_without_controls: int
    """Batches with perturbed cells and no control cells; their control sets come from the whole context."""
    control_parts: tuple[int, ...]
    """Control cells of each part, which have the roles ``input``, ``target`` and ``truth`` while rotation is 0."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """An `Inspection` is a store at a glance, beside what its attributes say."""

    store: CellStore
    checksums_verified: bool
    """Whether every checksum was recomputed and found right."""
    cells_per_condition: tuple[float, ...]
    """Minimum, quartiles and maximum over perturbed (context, perturbation) pairs; empty where there are none."""
    library_size: tuple[float, ...]
    """Minimum, quartiles and maximum; empty for log1p data."""
    by_context: tuple[ContextSummary, ...]


def describe(store: CellStore, *, verify: bool = True) -> Inspection:
    """Summarise a store; with `verify` every checksum is recomputed. An InputError names the files that differ."""
    if verify:
        store.verify()
    perturbed = store.runs[~store.is_control]
    pairs, condition = np.unique(perturbed[["context", "perturbation"]], return_inverse=True)
    per_condition = np.bincount(condition.reshape(-1), weights=perturbed["length"], minlength=len(pairs))
    return Inspection(
        store=store,
        checksums_verified=verify,
        cells_per_condition=_quantiles(per_condition),
        library_size=_quantiles(store.library_size) if store.kind == "counts" else (),
        by_context=tuple(_summarise(store, index) for index in range(len(store.contexts))),
    )


def _summarise(store: CellStore, index: int) -> ContextSummary:
    inside = store.runs["context"] == index
    runs, controls = store.runs[inside & ~store.is_control], store.runs[inside & store.is_control]
    return ContextSummary(
        context=str(store.contexts[index]),
        cells=int(store.runs["length"][inside].sum()),
        controls=int(controls["length"].sum()),
        perturbations=len(np.unique(runs["perturbation"])),
        batches=len(np.setdiff1d(store.runs["batch"][inside], [-1])),
        batches_without_controls=len(np.setdiff1d(runs["batch"], controls["batch"])),
        control_parts=tuple(int(controls["length"][controls["control_part"] == part].sum()) for part in range(PARTS)),
    )


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(values, QUANTILES)) if len(values) else ()
