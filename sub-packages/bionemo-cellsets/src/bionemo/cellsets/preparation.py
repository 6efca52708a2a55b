"""AnnData files to a cell store: read, select genes, sort by condition, write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

from bionemo.cellsets.anndata_input import Cells, provenance, read_cells, same_genes
from bionemo.cellsets.errors import InputError, choices, name_list
from bionemo.cellsets.split import Split
from bionemo.cellsets.store import RUN_DTYPE, CellStore
from bionemo.cellsets.writer import StoreContents, check_target, write_store

SHUFFLE_SEED = 0
"""Cells are permuted inside their run by this seed, so equal inputs make equal stores."""


def prepare(
    inputs: Sequence[str | Path],
    store: str | Path,
    *,
    perturbation_key: str,
    control: str,
    context_key: str,
    batch_key: str | None = None,
    layer: str | None = None,
    n_genes: int | None = 2000,
    target_sum: float = 10_000.0,
    split: str | Path | None = None,
    already_log1p: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> CellStore:
    """Write a cell store.

    Parameters
    ----------
    inputs : sequence of paths
        h5ad files with the same genes (in any order); their cells are put together. Each is held in memory.
    store : path
        The directory to make.
    perturbation_key, context_key, batch_key : str
        obs columns of the perturbation, the cell context, and the batch (optional). One column may serve twice.
    control : str
        Label of control cells in `perturbation_key`; every context must have some.
    layer : str, optional
        Layer to read instead of X.
    n_genes : int, optional
        Keep this many highly variable genes (scanpy, Seurat flavour, on log1p values); None, or a number that is not
        less than the input's, keeps all.
    target_sum : float
        Counts of a cell, over all genes, that reading scales to before log1p.
    split : path, optional
        Split file; genes are then selected on its training cells only.
    already_log1p : bool
        The input holds log1p of normalised counts; it is stored as float32 and read unchanged.
    overwrite : bool
        Replace a store that is there.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    CellStore
        The store, opened.

    Raises
    ------
    InputError
        If anything about the input is wrong; nothing is left at `store` then.
    """
    paths, store = [Path(path) for path in inputs], Path(store)
    check_target(store, overwrite=overwrite)
    _check_arguments(paths, n_genes, target_sum)
    keys = {"perturbation": perturbation_key, "context": context_key, "batch": batch_key}
    held_out = None if split is None else Split.from_toml(split)
    with tqdm(total=len(paths) + 3, desc="prepare", unit="step", disable=not progress) as bar:
        read = []
        for path in paths:
            bar.set_postfix_str(f"reading {path.name}")
            read.append((path, read_cells(path, keys, layer=layer, already_log1p=already_log1p)))
            bar.update()
        cells = same_genes(read)
        del read
        labels = {kind: np.concatenate([part.labels[kind] for part in cells]) for kind in cells[0].labels}
        _check_control(labels, control, perturbation_key, context_key)

        bar.set_postfix_str("sorting by condition")
        order, runs, tables = _sort(labels)
        matrix, names, genes = _join(cells)
        del cells
        matrix = matrix[order]
        bar.update()

        bar.set_postfix_str("selecting genes")
        kind = "log1p" if already_log1p else "counts"
        library_size = np.full(matrix.shape[0], np.nan, dtype=np.float32)
        if kind == "counts":
            library_size = np.asarray(matrix.sum(axis=1, dtype=np.float64)).reshape(-1).astype(np.float32)
        parts = (
            None if held_out is None else held_out.assign_runs(runs, tables["context"], tables["perturbation"], control)
        )
        selected, source = _select_genes(
            matrix, library_size, runs, parts, kind=kind, n_genes=n_genes, target_sum=target_sum
        )
        if len(selected) < len(genes):
            matrix = matrix[:, selected]
            matrix.sort_indices()
        if matrix.nnz == 0:
            raise InputError(
                f"{name_list(path.name for path in paths)} holds zeros only: choose another layer with --layer"
            )
        bar.update()

        bar.set_postfix_str("writing")
        write_store(
            StoreContents(
                data=matrix.data.astype(_narrowest(matrix.data)),
                columns=matrix.indices.astype(np.uint16 if len(selected) <= 2**16 else np.uint32),
                row_pointers=matrix.indptr.astype(np.uint64),
                runs=runs,
                library_size=library_size,
                tables={
                    "genes": genes[selected].tolist(),
                    "contexts": tables["context"].tolist(),
                    "perturbations": tables["perturbation"].tolist(),
                    "batches": tables["batch"].tolist() if batch_key else [],
                },
                obs={"cell": names[order], **{kind: column[order] for kind, column in labels.items()}},
                manifest={
                    "kind": kind,
                    "control": control,
                    "keys": keys,
                    "target_sum": float(target_sum),
                    "layer": layer,
                    "inputs": [provenance(path) for path in paths],
                    "gene_selection": {
                        "of": len(genes),
                        "source": source,
                        "split_hash": held_out.hash if held_out and len(selected) < len(genes) else None,
                    },
                    "shuffle_seed": SHUFFLE_SEED,
                },
            ),
            store,
            overwrite=overwrite,
        )
        bar.update()
    return CellStore.open(store)


def _check_arguments(paths: list[Path], n_genes: int | None, target_sum: float) -> None:
    if not paths:
        raise InputError("No input was given: name one or more .h5ad files")
    resolved = [path.resolve() for path in paths]
    for path in paths:
        if resolved.count(path.resolve()) > 1:
            raise InputError(f"The input {path} is given twice: name it once")
    if n_genes is not None and n_genes < 1:
        raise InputError(f"n_genes is {n_genes}: it must be at least 1")
    if not (np.isfinite(target_sum) and target_sum > 0):
        raise InputError(f"target_sum is {target_sum}: it must be above 0")


def _check_control(labels: dict[str, np.ndarray], control: str, perturbation_key: str, context_key: str) -> None:
    is_control = labels["perturbation"] == control
    if not is_control.any():
        known = np.unique(labels["perturbation"])
        raise InputError(
            f"No cell has the control label '{control}' in obs column '{perturbation_key}': {choices(control, known)}"
        )
    without = np.setdiff1d(labels["context"], labels["context"][is_control])
    if len(without):
        raise InputError(
            f"{len(without)} of the contexts in obs column '{context_key}' have no '{control}' cells "
            f"({name_list(without)}): "
            "add control cells, leave these contexts out, or choose another context key"
        )


def _sort(labels: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return the shuffled order by condition, the run table, and the category table of each label."""
    tables, codes = {}, {}
    for kind in ("context", "perturbation", "batch"):
        if kind in labels:
            tables[kind], codes[kind] = np.unique(labels[kind], return_inverse=True)
        else:
            tables[kind], codes[kind] = np.array([], dtype=str), np.full(len(labels["context"]), -1)
    shuffled = np.random.default_rng(SHUFFLE_SEED).permutation(len(labels["context"]))
    by_rank = [codes[kind][shuffled] for kind in ("batch", "perturbation", "context")]
    order = shuffled[np.lexsort(by_rank)]
    conditions = np.stack([codes[kind][order] for kind in ("context", "perturbation", "batch")])
    start = np.flatnonzero(np.r_[True, np.any(conditions[:, 1:] != conditions[:, :-1], axis=0)])
    runs = np.zeros(len(start), dtype=RUN_DTYPE)
    runs["context"], runs["perturbation"], runs["batch"] = conditions[:, start]
    runs["start"] = start
    runs["length"] = np.diff(np.r_[start, len(order)])
    return order, runs, tables


def _join(cells: list[Cells]) -> tuple[Any, np.ndarray, np.ndarray]:
    matrix = cells[0].matrix if len(cells) == 1 else sp.vstack([part.matrix for part in cells], format="csr")
    return sp.csr_matrix(matrix), np.concatenate([part.names for part in cells]), cells[0].genes


def _select_genes(
    matrix: Any,
    library_size: np.ndarray,
    runs: np.ndarray,
    parts: np.ndarray | None,
    *,
    kind: str,
    n_genes: int | None,
    target_sum: float,
) -> tuple[np.ndarray, str]:
    """Return the columns of the CSR `matrix` to keep, ascending, and a line that says how they were chosen."""
    n_input = matrix.shape[1]
    if n_genes is None or n_genes >= n_input:
        return np.arange(n_input), "all genes of the input"
    import anndata
    import scanpy

    source = f"{n_genes} highly variable genes (scanpy, flavor seurat) on all cells"
    training, sizes = matrix, library_size
    if parts is not None:
        if not (parts == "train").any():
            raise InputError("The split leaves no training cells to select genes on: let some context train")
        rows = np.repeat(parts == "train", runs["length"])
        training, sizes = matrix[rows], library_size[rows]
        source = f"{n_genes} highly variable genes (scanpy, flavor seurat) on the split's training cells"
    values = training.astype(np.float32)
    if kind == "counts":
        per_value = np.repeat(np.where(sizes > 0, sizes, 1), np.diff(training.indptr))
        values.data = np.log1p(values.data * (target_sum / per_value)).astype(np.float32)
    statistics: Any = scanpy.pp.highly_variable_genes(
        anndata.AnnData(values), n_top_genes=n_genes, flavor="seurat", inplace=False
    )
    # scanpy keeps every gene that ties with the last one; exactly n_genes are wanted.
    dispersion = np.nan_to_num(statistics["dispersions_norm"].to_numpy(dtype=np.float64), nan=-np.inf)
    return np.sort(np.argsort(-dispersion, kind="stable")[:n_genes]), source


def _narrowest(values: np.ndarray) -> np.dtype:
    if values.dtype == np.float32:
        return values.dtype
    return next(np.dtype(t) for t in (np.uint8, np.uint16, np.uint32) if values.max() <= np.iinfo(t).max)
