"""Summarise a store as numbers and small tables, for a command line or a notebook to show."""

from dataclasses import dataclass

import numpy as np

from bionemo.cellsets.store.cell_store import CellStore
from bionemo.screens.controls import PARTS

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class ContextSummary:
    """A `ContextSummary` counts what one context of a store has.

    Attributes
    ----------
    context : str
        Its name.
    cells, controls : int
        All its cells, and its control cells.
    perturbations : int
        Labels other than the control.
    batches : int
        Batches it has cells in; 0 where the store has no batch key.
    batches_without_controls : int
        Batches with perturbed cells and no control cells; their control sets come from the whole context.
    control_parts : tuple of int
        Its control cells by part, which are in the roles ``input``, ``target`` and ``truth`` while rotation is 0.
    """

    context: str
    cells: int
    controls: int
    perturbations: int
    batches: int
    batches_without_controls: int
    control_parts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """An `Inspection` is a store at a glance.

    Attributes
    ----------
    path, fingerprint, kind, control : str
        As on the store.
    keys : dict
        obs columns of perturbation, context and batch.
    cells, genes, contexts, perturbations, batches, runs : int
        How many; `perturbations` leaves out the control label.
    genes_of_input : int
        Genes before selection.
    gene_source : str
        How the genes were chosen.
    target_sum : float
        Counts per cell after scaling.
    cells_per_condition : tuple of float
        Minimum, quartiles and maximum over perturbed (context, perturbation) pairs; empty where there are none.
    values_per_cell : float
        Mean stored non-zeros per cell.
    library_size : tuple of float
        Minimum, quartiles and maximum; empty for log1p data.
    bytes : int
        Size on disk.
    checksums_verified : bool
        Whether every checksum was recomputed and found right.
    by_context : tuple of ContextSummary
        One row per context.
    """

    path: str
    fingerprint: str
    kind: str
    control: str
    keys: dict[str, str | None]
    cells: int
    genes: int
    contexts: int
    perturbations: int
    batches: int
    runs: int
    genes_of_input: int
    gene_source: str
    target_sum: float
    cells_per_condition: tuple[float, ...]
    values_per_cell: float
    library_size: tuple[float, ...]
    bytes: int
    checksums_verified: bool
    by_context: tuple[ContextSummary, ...]


def describe(store: CellStore, *, verify: bool = True) -> Inspection:
    """Summarise a store.

    Parameters
    ----------
    store : CellStore
        The store.
    verify : bool
        Recompute every checksum, which reads the whole store.

    Returns
    -------
    Inspection
        The summary.

    Raises
    ------
    InputError
        If a checksum is wrong.
    """
    if verify:
        store.verify()
    runs, is_control = store.runs, store.is_control
    perturbed = runs[~is_control]
    pairs, condition = np.unique(perturbed[["context", "perturbation"]], return_inverse=True)
    per_condition = np.bincount(condition.reshape(-1), weights=perturbed["length"], minlength=len(pairs))
    selection = store.manifest["gene_selection"]
    return Inspection(
        path=str(store.path),
        fingerprint=store.fingerprint,
        kind=store.kind,
        control=store.control,
        keys=store.keys,
        cells=store.n_cells,
        genes=store.n_genes,
        contexts=len(store.contexts),
        perturbations=len(store.perturbations) - 1,
        batches=len(store.batches),
        runs=len(runs),
        genes_of_input=selection["of"],
        gene_source=selection["source"],
        target_sum=store.target_sum,
        cells_per_condition=_quantiles(per_condition),
        values_per_cell=store.n_values / store.n_cells,
        library_size=_quantiles(store.library_size) if store.kind == "counts" else (),
        bytes=sum(entry["bytes"] for entry in store.manifest["files"].values()),
        checksums_verified=verify,
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
