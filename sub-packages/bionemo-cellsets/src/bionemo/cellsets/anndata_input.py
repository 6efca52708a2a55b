"""Reads AnnData files into checked counts and labels; every way an input can be wrong ends here in one sentence."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem

from bionemo.cellsets.errors import InputError, choices, name_list

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_LOG1P = 20.0
"""log1p values stay below: exp(20) is half a thousand million counts in one gene of one cell."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Cells of one input.

    Attributes
    ----------
    matrix : CSR [n, G]
        uint32 counts or float32 log1p values; sorted indices, no stored zeros.
    genes : array of str [G]
        Distinct gene names.
    names : array of str [n]
        Cell names.
    labels : dict
        ``perturbation``, ``context`` and, where asked for, ``batch``: arrays of str [n].
    """

    matrix: sp.csr_matrix
    genes: np.ndarray
    names: np.ndarray
    labels: dict[str, np.ndarray]


def read_cells(path: Path, keys: dict[str, str | None], *, layer: str | None, already_log1p: bool) -> Cells:
    """Read one h5ad file.

    Parameters
    ----------
    path : Path
        The file; its expression may be CSR, CSC or dense.
    keys : dict
        The obs columns to read as ``perturbation``, ``context`` and ``batch`` (None to leave it out).
    layer : str, optional
        A layer to read instead of X.
    already_log1p : bool
        The values are log1p of normalised counts, not counts.

    Returns
    -------
    Cells
        Checked: distinct genes, no missing label, no NaN, infinite or negative value, and counts that are integers.

    Raises
    ------
    InputError
        For the first thing that is wrong.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}: name an existing .h5ad file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} cannot be read as .h5ad ({error}): name an AnnData file") from error
    with file:
        obs, var = _table(file, "obs", path), _table(file, "var", path)
        labels = {kind: _labels(obs, key, path) for kind, key in keys.items() if key is not None}
        genes = var.index.astype(str).to_numpy(dtype=str)
        duplicated = sorted({str(gene) for gene in genes[pd.Index(genes).duplicated()]})
        if duplicated:
            raise InputError(
                f"{path} names {len(duplicated)} genes more than once ({name_list(duplicated)}): "
                "make them distinct, for example with AnnData.var_names_make_unique"
            )
        stored, where = _expression(file, layer, path)
    if stored.shape != (len(obs), len(var)):
        raise InputError(
            f"{where} of {path} has shape {stored.shape}, not {len(obs)} cells x {len(var)} genes: mend it"
        )
    if 0 in stored.shape:
        raise InputError(
            f"{path} has {stored.shape[0]} cells and {stored.shape[1]} genes: name a file that holds cells"
        )
    names = obs.index.astype(str).to_numpy(dtype=str)
    matrix = _checked(stored, where, path, names, genes, already_log1p=already_log1p)
    return Cells(matrix=matrix, genes=genes, names=names, labels=labels)


def provenance(path: Path) -> dict[str, Any]:
    """Say which file an input was: name, size in bytes, time of change."""
    status = os.stat(path)
    return {"name": path.name, "bytes": status.st_size, "modified": int(status.st_mtime)}


def same_genes(inputs: Sequence[tuple[Path, Cells]]) -> list[Cells]:
    """Bring every input to the gene order of the first.

    Raises
    ------
    InputError
        If an input has other genes, with their counts.
    """
    (first_path, first), *others = inputs
    aligned = [first]
    for path, cells in others:
        position = pd.Index(cells.genes).get_indexer(pd.Index(first.genes))
        missing, extra = int((position < 0).sum()), len(set(cells.genes) - set(first.genes))
        if missing or extra:
            raise InputError(
                f"{path} lacks {missing} genes of {first_path} and has {extra} that are not in it: "
                "give every input the same genes before preparing"
            )
        if not np.array_equal(cells.genes, first.genes):
            matrix = sp.csr_matrix(cells.matrix[:, position])
            matrix.sort_indices()
            cells = Cells(matrix=matrix, genes=first.genes, names=cells.names, labels=cells.labels)
        aligned.append(cells)
    return aligned


def _table(file: h5py.File, name: str, path: Path) -> pd.DataFrame:
    if name not in file:
        raise InputError(f"{path} has no '{name}' table: name an AnnData file")
    group: Any = file[name]
    try:
        table: Any = read_elem(group)
    except Exception as error:  # whatever the reader stumbles over, the file is the cause
        raise InputError(f"The '{name}' table of {path} cannot be read ({error}): write the file again") from error
    return table


def _labels(obs: pd.DataFrame, key: str, path: Path) -> "NDArray[np.str_]":
    if key not in obs.columns:
        raise InputError(f"{path} has no obs column '{key}': {choices(key, obs.columns)}")
    column = obs[key]
    text = column.astype(object).where(column.notna(), "").astype(str)
    missing = np.flatnonzero((text.str.strip() == "").to_numpy())
    if len(missing):
        raise InputError(
            f"obs column '{key}' of {path} is empty for {len(missing)} cells, the first is '{obs.index[missing[0]]}': "
            "label these cells or leave them out"
        )
    return text.to_numpy(dtype=str)


def _expression(file: h5py.File, layer: str | None, path: Path) -> tuple[Any, str]:
    contents: Any = file  # h5py's types do not tell a group from a data set
    layers = list(contents["layers"]) if "layers" in file else []
    if layer is not None and layer not in layers:
        raise InputError(f"{path} has no layer '{layer}': {choices(layer, layers)}")
    if layer is None and "X" not in file:
        raise InputError(f"{path} has no X: choose a layer with --layer ({name_list(layers)})")
    where = "X" if layer is None else f"layer '{layer}'"
    try:
        return read_elem(contents["X"] if layer is None else contents["layers"][layer]), where
    except Exception as error:  # whatever the reader stumbles over, the file is the cause
        raise InputError(f"{where} of {path} cannot be read ({error}): write the file again") from error


def _checked(
    stored: Any, where: str, path: Path, names: np.ndarray, genes: np.ndarray, *, already_log1p: bool
) -> sp.csr_matrix:
    matrix: Any = sp.csr_matrix(stored)
    try:
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise InputError(f"{where} of {path} is a damaged sparse matrix ({error}): write the file again") from error
    values = matrix.data

    def refuse(wrong: np.ndarray, reason: str) -> None:
        if wrong.any():
            at = int(np.argmax(wrong))
            cell = names[np.searchsorted(matrix.indptr, at, side="right") - 1]
            gene = genes[matrix.indices[at]]
            raise InputError(f"{where} of {path} holds {values[at]:g} at cell '{cell}', gene '{gene}': {reason}")

    refuse(~np.isfinite(values), "replace or leave out what is not a finite number")
    refuse(values < 0, "expression cannot be negative, so choose unscaled counts with --layer")
    if already_log1p:
        refuse(values > LARGEST_LOG1P, "that is no log1p value, so leave out --log1p")
        matrix = matrix.astype(np.float32)
    else:
        refuse(values != np.rint(values), "that is no count, so choose a layer of counts with --layer or say --log1p")
        refuse(values > np.iinfo(np.uint32).max, "that is more than a count can be here, 4294967295")
        matrix = matrix.astype(np.uint32)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix
