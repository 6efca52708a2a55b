"""Check expression values and bring observed counts to log1p."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile
from bionemo.perteval.inputs.screen import gene_count
from bionemo.screens.errors import InputError, nearest

LOG1P_LIMIT = 15.0
"""cell-eval takes values from here on for counts."""

_CELLS_AT_ONCE = 20_000


def predicted_log1p(file: CellFile) -> sp.csr_matrix:
    """Return the predicted cells, log1p float32 [N, G]; refuse them where they are on another scale."""
    csr = _csr(file.cells.X, file.name)
    if csr.data.size and _is_integer(csr):
        raise InputError(
            f"{file.name} holds integers (up to {csr.data.max():g}), which are counts, not log1p; normalise and log1p "
            "it."
        )
    if csr.data.size and csr.data.max() >= LOG1P_LIMIT:
        raise InputError(
            f"{file.name} has a value of {csr.data.max():.4g}, but log1p values stay below {LOG1P_LIMIT:g}; take log1p "
            "of the normalised counts."
        )
    return sp.csr_matrix(csr, dtype=np.float32)


def observed_log1p(
    file: CellFile, keys: Keys, columns: np.ndarray
) -> tuple[sp.csr_matrix, np.ndarray | None, float | None, list[str]]:
    """Return the observed cells on the panel, and the scale that they come from.

    Parameters
    ----------
    file, keys
        The observed file, its layer and the target sum.
    columns
        Columns of the panel's genes in the file [G].

    Returns
    -------
    matrix
        log1p float32 [N, G].
    library
        Counts of each cell over all genes of the file [N]; None where the file holds log1p values.
    target_sum
        Counts per cell before log1p; None where the file holds log1p values.
    notes
        What the reader has to know.

    Raises
    ------
    InputError
        Where the layer is missing, the values are neither counts nor log1p, or the target sum is not known.
    """
    where = file.name
    matrix = file.cells.X
    if keys.layer is not None:
        if keys.layer not in file.cells.layers:
            hint = nearest(keys.layer, file.cells.layers.keys())
            raise InputError(f"{file.name} has no layer {keys.layer!r}{hint}; give --layer.")
        where, matrix = f"layer {keys.layer!r} of {file.name}", file.cells.layers[keys.layer]
    csr = _csr(matrix, where)
    if not csr.data.size:
        raise InputError(f"{where} holds nothing but zeros; choose the right layer with --layer.")
    if not _is_integer(csr):
        if csr.data.max() >= LOG1P_LIMIT:
            raise InputError(
                f"{where} holds neither counts (it has fractions) nor log1p values (it reaches {csr.data.max():.4g}); "
                "give raw counts or log1p of normalised counts."
            )
        return sp.csr_matrix(_columns(csr, columns), dtype=np.float32), None, None, []
    if keys.target_sum is None:
        raise InputError(f"{file.name} holds counts but the target sum is not known: give --target-sum (often 10000).")
    if not keys.target_sum > 0:
        raise InputError(f"target_sum is {keys.target_sum:g}, but it has to be above 0, for example 10000.")
    library = np.asarray(csr.sum(axis=1, dtype=np.float64)).ravel()
    empty = int((library == 0).sum())
    notes = [f"{empty} observed cells have no counts at all and stay zero in every gene."] if empty else []
    scale = np.divide(keys.target_sum, library, out=np.zeros_like(library), where=library > 0)
    return _log1p(_columns(csr, columns), scale), library, keys.target_sum, notes


def _csr(matrix: Any, name: str) -> sp.csr_matrix:
    """Return the values as CSR without NaN, infinite or negative ones; not to be changed, they may be the caller's."""
    if matrix is None:
        raise InputError(f"{name} has no X; write the expression there, or name a layer with --layer.")
    csr = sp.csr_matrix(matrix)
    if not csr.data.all() or not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
        csr.eliminate_zeros()
    if not np.isfinite(csr.data).all():
        bad = int((~np.isfinite(csr.data)).sum())
        raise InputError(f"{name} has {bad} values that are NaN or infinite; drop those cells or genes.")
    if csr.data.size and csr.data.min() < 0:
        raise InputError(
            f"{name} has negative values (lowest {csr.data.min():.3g}), but expression starts at 0; clip at 0."
        )
    return csr


def _is_integer(csr: sp.csr_matrix) -> bool:
    return bool(np.all(csr.data == np.rint(csr.data)))


def _columns(matrix: sp.csr_matrix, columns: np.ndarray) -> sp.csr_matrix:
    """Return the columns in this order, without a copy where it is theirs already."""
    same = columns.size == gene_count(matrix) and bool((columns == np.arange(columns.size)).all())
    return matrix if same else sp.csr_matrix(matrix[:, columns])


def _log1p(counts: sp.csr_matrix, scale: np.ndarray) -> sp.csr_matrix:
    """Return log1p(counts * scale of the cell) in single precision, computed in double, some cells at a time."""
    values = np.empty(counts.data.size, dtype=np.float32)
    for start in range(0, scale.size, _CELLS_AT_ONCE):
        bounds = counts.indptr[start : start + _CELLS_AT_ONCE + 1]
        some = slice(bounds[0], bounds[-1])
        times = np.repeat(scale[start : start + _CELLS_AT_ONCE], np.diff(bounds))
        values[some] = np.log1p(counts.data[some] * times)
    return sp.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)
