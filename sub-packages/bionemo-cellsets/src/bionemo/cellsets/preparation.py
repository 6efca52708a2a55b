"""AnnData files to a cell store: read, select genes, sort by condition, write; never all cells in memory."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from bionemo.cellsets.anndata_input import AnnDataInput
from bionemo.cellsets.building import BuildConfig, build_store
from bionemo.cellsets.cell_input import provenance
from bionemo.cellsets.errors import InputError
from bionemo.cellsets.protocols import PROTOCOLS, find_protocol
from bionemo.cellsets.split import Split
from bionemo.cellsets.store import CellStore
from bionemo.cellsets.writer import check_target


def prepare(
    inputs: Sequence[str | Path],
    store: str | Path,
    *,
    protocol: str | None = None,
    perturbation_key: str | None = None,
    control: str | None = None,
    context_key: str | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    genes: str = "same",
    n_genes: int | None = 2000,
    hvg_from: str = "train",
    target_sum: float = 10_000.0,
    split: str | Path | None = None,
    already_log1p: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> CellStore:
    """Write a cell store.

    Every input is read twice, in blocks; what is in memory does not grow with the number of cells. While it works,
    up to twice the store's size is used on its disk.

    Parameters
    ----------
    inputs : sequence of paths
        h5ad files or zarr directories; their cells are put together.
    store : path
        The directory to make.
    protocol : {"tahoe100m", "parse10m-pbmc", "replogle-nadig"}, optional
        A published screen; it gives the keys and the control label, and each of them given here comes before it.
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
    hvg_from : {"train", "all"}
        Choose them on the training cells of `split`, or on all cells.
    target_sum : float
        Counts of a cell, over all genes, that reading scales to before log1p.
    split : path, optional
        Split file that says which cells train.
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
        If anything about the input is wrong, or the disk is full; nothing is left at `store` then.

    Warns
    -----
    UserWarning
        If labels differ only by case or blanks.
    """
    paths, store = [Path(path) for path in inputs], Path(store)
    check_target(store, overwrite=overwrite)
    _check_paths(paths)
    keys, control = complete_keys(
        protocol,
        {"perturbation": perturbation_key, "context": context_key, "batch": batch_key},
        control,
    )
    config = BuildConfig(
        keys=keys,
        control=control,
        genes=genes,
        n_genes=n_genes,
        hvg_from=hvg_from,
        target_sum=float(target_sum),
        split=None if split is None else Split.from_toml(split),
        already_log1p=already_log1p,
    )
    with contextlib.ExitStack() as stack:
        cells = [stack.enter_context(contextlib.closing(AnnDataInput(path, layer=layer))) for path in paths]
        entries = {"layer": layer, "protocol": protocol, "inputs": [provenance(path) for path in paths]}
        return build_store(cells, store, config, provenance=entries, overwrite=overwrite, progress=progress)


def complete_keys(
    protocol: str | None, keys: dict[str, str | None], control: str | None
) -> tuple[dict[str, str | None], str]:
    """Fill what is not given from a protocol.

    Parameters
    ----------
    protocol : str, optional
        Its name.
    keys : dict
        ``perturbation``, ``context`` and ``batch`` obs columns, or None.
    control : str, optional
        Label of control cells.

    Returns
    -------
    dict, str
        The columns, of which only the batch may be None, and the label.

    Raises
    ------
    InputError
        Naming what neither the protocol nor the caller gives.
    """
    preset = None if protocol is None else find_protocol(protocol)
    if preset is not None:
        keys = {kind: key if key is not None else getattr(preset, f"{kind}_key") for kind, key in keys.items()}
        control = preset.control if control is None else control
    missing = [f"the {kind} key" for kind in ("perturbation", "context") if keys[kind] is None]
    missing += ["the control label"] if control is None else []
    if missing or control is None:
        raise InputError(
            f"Nothing says what {' and '.join(missing)} is: give it, or a protocol ({', '.join(PROTOCOLS)})"
        )
    return keys, control


def _check_paths(paths: list[Path]) -> None:
    if not paths:
        raise InputError("No input was given: name one or more .h5ad files")
    resolved = [path.resolve() for path in paths]
    for path in paths:
        if resolved.count(path.resolve()) > 1:
            raise InputError(f"The input {path} is given twice: name it once")
