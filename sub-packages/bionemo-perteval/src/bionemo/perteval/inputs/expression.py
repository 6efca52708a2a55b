"""Check expression values and bring them to log1p on the panel, block by block."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile
from bionemo.perteval.inputs.scratch import ScratchCells
from bionemo.perteval.inputs.screen import gene_count
from bionemo.perteval.inputs.stored import blocks_of
from bionemo.screens.errors import InputError, choices
from bionemo.screens.labels import Condition

LOG1P_LIMIT = 15.0
"""cell-eval takes values from here on for counts."""


@dataclass
class _Seen:
    """`_Seen` says which values the blocks of a file had that were looked at so far."""

    values: int = 0
    bad: int = 0
    lowest: float = np.inf
    highest: float = -np.inf
    integers: bool = True

    def look(self, block: sp.csr_matrix) -> None:
        """Look at the values of the next block."""
        finite = np.isfinite(block.data)
        self.values += block.data.size
        self.bad += int((~finite).sum())
        if block.data.size:
            self.lowest = min(self.lowest, float(block.data.min(where=finite, initial=np.inf)))
            self.highest = max(self.highest, float(block.data.max(where=finite, initial=-np.inf)))
            self.integers = self.integers and bool(np.all(block.data == np.rint(block.data)))

    @property
    def sound(self) -> bool:
        """Whether all values may be expression."""
        return not self.bad and self.lowest >= 0

    def check(self, name: str) -> None:
        """Refuse NaN, infinite and negative values."""
        if self.bad:
            raise InputError(f"{name} has {self.bad} values that are NaN or infinite; drop those cells or genes.")
        if self.lowest < 0:
            raise InputError(
                f"{name} has negative values (lowest {self.lowest:.3g}), but expression starts at 0; clip at 0."
            )


def predicted_log1p(file: CellFile, rows: Mapping[Condition, np.ndarray], columns: np.ndarray) -> ScratchCells:
    """Return the predicted cells, log1p float32 [N, G]; refuse them where they are on another scale.

    `columns` are those of the panel's genes in the file [G], `rows` those of all cells that will be asked for.
    """
    seen, cells = _read_values(file, groups_of(rows, file), None, columns)
    seen.check(file.name)
    check_there(cells, file.name)
    if seen.values and seen.integers:
        raise InputError(
            f"{file.name} holds integers (up to {seen.highest:g}), which are counts, not log1p; normalise and log1p it."
        )
    if seen.values and seen.highest >= LOG1P_LIMIT:
        raise InputError(
            f"{file.name} has a value of {seen.highest:.4g}, but log1p values stay below {LOG1P_LIMIT:g}; take log1p "
            "of the normalised counts."
        )
    return cells


def observed_log1p(
    file: CellFile, rows: Mapping[Condition, np.ndarray], keys: Keys, columns: np.ndarray
) -> tuple[ScratchCells, np.ndarray | None, float | None, list[str]]:
    """Return the observed cells on the panel, and the scale that they come from.

    `columns` are those of the panel's genes in the file [G], `rows` those of all cells that will be asked for.

    Returns
    -------
    cells
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
    where, groups = layer_name(file, keys.layer), groups_of(rows, file)
    seen, cells, library = _read_counts(file, groups, keys, columns)
    if not seen.integers:
        (seen, cells), library = _read_values(file, groups, keys.layer, columns), None
    seen.check(where)
    check_there(cells, where)
    if not seen.values:
        raise InputError(f"{where} holds nothing but zeros; choose the right layer with --layer.")
    if library is None:
        if seen.highest >= LOG1P_LIMIT:
            raise InputError(
                f"{where} holds neither counts (it has fractions) nor log1p values (it reaches {seen.highest:.4g}); "
                "give raw counts or log1p of normalised counts."
            )
        return cells, None, None, []
    if keys.target_sum is None:
        raise InputError(f"{file.name} holds counts but the target sum is not known: give --target-sum (often 10000).")
    if not keys.target_sum > 0:
        raise InputError(f"target_sum is {keys.target_sum:g}, but it has to be above 0, for example 10000.")
    empty = int((library == 0).sum())
    notes = [f"{empty} observed cells have no counts at all and stay zero in every gene."] if empty else []
    return cells, library, keys.target_sum, notes


def _read_values(
    file: CellFile, groups: np.ndarray, layer: str | None, columns: np.ndarray
) -> tuple[_Seen, ScratchCells]:
    """Return what was seen, and the cells as they are [N, G]; nothing is kept after a value that is no expression."""
    seen, cells = _Seen(), ScratchCells(groups, columns.size)
    for block in map(canonical, blocks_of(file.cells, layer)):
        seen.look(block)
        if seen.sound:
            cells.append(sp.csr_matrix(_columns(block, columns), dtype=np.float32))
    return seen, cells


def _read_counts(
    file: CellFile, groups: np.ndarray, keys: Keys, columns: np.ndarray
) -> tuple[_Seen, ScratchCells, np.ndarray]:
    """Return what was seen, the cells, log1p [N, G], and their counts [N]; stop where values are no counts."""
    seen, cells, libraries = _Seen(), ScratchCells(groups, columns.size), [np.zeros(0)]
    for block in map(canonical, blocks_of(file.cells, keys.layer)):
        seen.look(block)
        if not seen.integers:
            break
        if not seen.sound:
            continue
        library = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        scale = np.divide(keys.target_sum or 0.0, library, out=np.zeros_like(library), where=library > 0)
        cells.append(_log1p(_columns(block, columns), scale))
        libraries.append(library)
    return seen, cells, np.concatenate(libraries)


def layer_name(file: CellFile, layer: str | None) -> str:
    """Return what messages call a layer of a file, None for X; refuse one that is not there."""
    if layer is None:
        return file.name
    if layer not in file.cells.layers:
        raise InputError(f"{file.name} has no layer {layer!r} (--layer): {choices(layer, file.cells.layers)}")
    return f"layer {layer!r} of {file.name}"


def groups_of(rows: Mapping[Condition, np.ndarray], file: CellFile) -> np.ndarray:
    """Return the number of the condition of each cell of a file [N]; cells of none come last."""
    groups = np.full(file.cells.n_obs, len(rows), dtype=np.int32)
    for number, of in enumerate(rows.values()):
        groups[of] = number
    return groups


def check_there(cells: ScratchCells, name: str) -> None:
    """Refuse a file without values."""
    if cells.rows < cells.shape[0]:
        raise InputError(f"{name} has no X; write the expression there, or name a layer with --layer.")


def canonical(csr: sp.csr_matrix) -> sp.csr_matrix:
    """Return values without zeros, each place once; not to be changed, they may be the caller's."""
    if not csr.data.all() or not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr


def _columns(matrix: sp.csr_matrix, columns: np.ndarray) -> sp.csr_matrix:
    """Return the columns in this order, without a copy where it is theirs already."""
    same = columns.size == gene_count(matrix) and bool((columns == np.arange(columns.size)).all())
    return matrix if same else sp.csr_matrix(matrix[:, columns])


def _log1p(counts: sp.csr_matrix, scale: np.ndarray) -> sp.csr_matrix:
    """Return log1p(counts * scale of the cell) in single precision, computed in double."""
    values = np.log1p(counts.data * np.repeat(scale, np.diff(counts.indptr))).astype(np.float32)
    return sp.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)
