"""Write a cell store of cells on disk: read, select genes, sort by condition; never all cells are in memory."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bionemo.cellsets.inputs.anndata_files import AnnDataInput
from bionemo.cellsets.inputs.cell_input import CellInput
from bionemo.cellsets.inputs.pieces import Workers
from bionemo.cellsets.inputs.scdl_archives import HEADER, ObsTable, ScdlInput
from bionemo.cellsets.preparation.build import BuildConfig, build_store
from bionemo.cellsets.preparation.workplace import check_target, workplace
from bionemo.cellsets.store.cell_store import CellStore
from bionemo.cellsets.store.manifest import FORMAT_VERSION
from bionemo.screens.errors import InputError
from bionemo.screens.protocol import Protocol, find_protocol, protocol_names
from bionemo.screens.split import Split


def prepare(
    inputs: Sequence[str | Path],
    store: str | Path,
    *,
    obs: ObsTable | Sequence[ObsTable] | None = None,
    gene_column: str | None = None,
    protocol: str | Path | None = None,
    perturbation_key: str | None = None,
    control: str | None = None,
    context_key: str | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    genes: str = "same",
    n_genes: int | None = 2000,
    gene_names: Sequence[str] | None = None,
    hvg_from: str = "train",
    target_sum: float | None = None,
    split: str | Path | None = None,
    already_log1p: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: bool = True,
) -> CellStore:
    """Write a cell store.

    Every input is read twice, in blocks; what is in memory does not grow with the number of cells. While it works,
    up to twice the store's size is used on its disk. After a kill, an equal call goes on from what was finished.

    Parameters
    ----------
    inputs : sequence of paths
        h5ad files, zarr directories, or directories of bionemo-scdl archives; their cells are put together.
    store : path
        The directory to make.
    obs : DataFrame, path of a .csv or .parquet file, or a sequence of them, optional
        For archives only, which do not keep obs: for each input a line per row, in its order; the index (the first
        column of a .csv) names the cells. Without it the archives' own row features are taken, and cells are named by
        their number.
    gene_column : str, optional
        For archives only: the gene feature that holds the names; may be left out where there is one.
    protocol : str or path, optional
        A benchmark, such as ``tahoe100m``, or a protocol file: it gives the keys, the control label and the target
        sum, and each of them given here comes before it.
    perturbation_key, context_key, batch_key : str
        obs columns of the perturbation, the cell context, and the batch (optional). One column may serve twice; names
        joined by ``+`` mean the combination of several columns.
    control : str
        Label of control cells in `perturbation_key`; every context must have some.
    layer : str, optional
        What to read instead of X: a layer, ``raw/X``, or ``obsm/NAME``.
    genes : {"same", "intersection", "union"}
        What to do where the inputs' genes differ (their order may): refuse, keep the shared ones, or keep all, with
        zeros in the cells of an input that lacks a gene.
    n_genes : int, optional
        Keep this many highly variable genes (Seurat's dispersion of normalised counts); None, or a number that is not
        less than the input's, keeps all.
    gene_names : sequence of str, optional
        Keep these genes, in this order, instead of highly variable ones; all inputs' genes still count for the size
        of a cell.
    hvg_from : {"train", "all"}
        Choose them on the training cells of `split`, or on all cells.
    target_sum : float, optional
        Counts of a cell, over all genes, that reading scales to before log1p; the protocol's, or else 10,000.
    split : path, optional
        Split file that says which cells train.
    already_log1p : bool
        The input holds log1p of normalised counts; it is stored as float32 and read unchanged.
    overwrite : bool
        Replace a store that is there.
    threads : int, optional
        That share the work; by default one for each processor core this process may use, at most 8. The store does
        not depend on it.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    CellStore
        The store, opened.

    Raises
    ------
    InputError
        If anything about the input is wrong, the disk is full, or another process is making this store; nothing is
        left at `store` then.
    """
    paths, store = [Path(path) for path in inputs], Path(store)
    tables = [obs] if isinstance(obs, pd.DataFrame | str | Path) else None if obs is None else list(obs)
    check_target(store, overwrite=overwrite)
    Workers(threads)  # refused before anything unfinished is touched
    _check_paths(paths)
    rules = None if protocol is None else find_protocol(protocol)
    if target_sum is None:
        target_sum = (rules.target_sum if rules else None) or 10_000.0
    keys: dict[str, str | None] = {"perturbation": perturbation_key, "context": context_key, "batch": batch_key}
    keys, control = _complete_keys(rules, keys, control)
    config = BuildConfig(
        keys=keys, control=control, genes=genes, n_genes=n_genes, hvg_from=hvg_from, target_sum=float(target_sum),
        split=None if split is None else Split.from_toml(split), already_log1p=already_log1p,
        gene_names=None if gene_names is None else tuple(map(str, gene_names)),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        cells = _open_inputs(paths, stack, tables=tables, gene_column=gene_column, layer=layer)
        named = rules.name if rules else None
        entries = {"layer": layer, "protocol": named, "inputs": [_provenance(path) for path in paths]}
        plan = _plan(config, entries, paths, tables or [], gene_column)
        place = stack.enter_context(workplace(store, plan, overwrite=overwrite))
        if not place.is_complete:
            build_store(cells, place, config, provenance=entries, threads=threads, progress=progress)
    return CellStore.open(store)


def _open_inputs(
    paths: list[Path],
    stack: contextlib.ExitStack,
    *,
    tables: list[ObsTable] | None,
    gene_column: str | None,
    layer: str | None,
) -> list[CellInput]:
    archives = [path for path in paths if (path / HEADER).is_file()]
    if tables is not None and len(tables) != len(paths):
        raise InputError(f"{len(tables)} obs tables are given for {len(paths)} inputs: give one for each, in order")
    if (tables is not None or gene_column is not None) and len(archives) < len(paths):
        other = next(path for path in paths if path not in archives)
        raise InputError(
            f"{other} is no bionemo-scdl archive, and obs tables and a gene column are for those only: leave them out"
        )
    if layer is not None and archives:
        raise InputError(f"{archives[0]} is a bionemo-scdl archive, which has no layer '{layer}': leave out --layer")
    opened: list[CellInput] = []
    for path, table in zip(paths, tables or [None] * len(paths), strict=True):
        if path in archives:
            cells = ScdlInput(path, obs=table, gene_column=gene_column)
        else:
            cells = AnnDataInput(path, layer=layer)
        opened.append(stack.enter_context(contextlib.closing(cells)))
    return opened


def _plan(
    config: BuildConfig,
    provenance: dict[str, Any],
    paths: list[Path],
    tables: list[ObsTable],
    gene_column: str | None,
) -> dict[str, Any]:
    """Return all that decides what is written; only work of an equal plan is gone on with."""
    files = [path for path in (*paths, *tables) if not isinstance(path, pd.DataFrame)]
    return {
        "format_version": FORMAT_VERSION,
        "version": importlib.metadata.version("bionemo-cellsets"),
        **{field.name: getattr(config, field.name) for field in dataclasses.fields(config)},
        "split": None if config.split is None else config.split.hash,
        **provenance,
        "gene_column": gene_column,
        "files": [[os.path.realpath(file), *_size_and_time(Path(file))] for file in files],
        "tables": [_table_hash(table) for table in tables if isinstance(table, pd.DataFrame)],
    }


def _table_hash(table: pd.DataFrame) -> str:
    hashed = pd.util.hash_pandas_object(table, categorize=False)  # pyright: ignore[reportAttributeAccessIssue]
    return hashlib.sha256(hashed.to_numpy().tobytes() + repr(list(table.columns)).encode()).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return the bytes of a file, or of a directory's files, and the nanosecond of the last change."""
    stats = [os.stat(file) for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def _provenance(path: Path) -> dict[str, Any]:
    """Say which file an input was: name, size in bytes (of a directory, of its files), time of change."""
    return {"name": path.name, "bytes": _size_and_time(path)[0], "modified": int(os.stat(path).st_mtime)}


def _complete_keys(
    protocol: Protocol | None, keys: dict[str, str | None], control: str | None
) -> tuple[dict[str, str | None], str]:
    """Return the obs columns and the control label; what is not given is taken from the protocol, if there is one.

    Of the columns that are returned only the batch may be None: an InputError names what nobody gives.
    """
    if protocol is not None:
        keys = {kind: key if key is not None else getattr(protocol, f"{kind}_key") for kind, key in keys.items()}
        control = protocol.control if control is None else control
    missing = [f"the {kind} key" for kind in ("perturbation", "context") if keys[kind] is None]
    missing += ["the control label"] if control is None else []
    if missing or control is None:
        raise InputError(
            f"Nothing says what {' and '.join(missing)} is: give it, or a protocol ({', '.join(protocol_names())})"
        )
    return keys, control


def _check_paths(paths: list[Path]) -> None:
    if not paths:
        raise InputError("No input was given: name one or more .h5ad files")
    known: dict[object, Path] = {}
    for path in paths:
        there = path.stat() if path.exists() else None
        file = os.path.realpath(path) if there is None else (there.st_dev, there.st_ino)
        if file in known:
            raise InputError(f"{known[file]} and {path} are the same input: name it once")
        known[file] = path
