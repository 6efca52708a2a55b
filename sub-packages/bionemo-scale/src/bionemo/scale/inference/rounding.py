"""Make sparse cells of control cells and what a model changes in them, on the grid of whole counts."""

import numpy as np
from scipy import sparse

from bionemo.cellsets.store.compiled import compiled

STRATA = 4
"""Cells are rounded in so many groups of like library size, whose counts are steps of like height."""
_TABLE = 32
"""Counts up to this are looked up."""
_SLACK = 1e-6
"""By how much a value may fall short of a whole count that it stands for."""


class CountGrid:
    """A `CountGrid` is what whole counts of some cells can show: the same for every condition that starts from them.

    A cell of library size L can show ``log1p(k * target_sum / L)`` for whole k; `library` has those sizes, [S].
    """

    def __init__(self, library: np.ndarray, target_sum: float):
        self.library, self.unit = library, target_sum / np.maximum(library, 1)
        count = np.arange(_TABLE + 1)
        grid = np.log1p(count * self.unit[:, None])
        reached = np.log1p(np.maximum(count - _SLACK, 0) * self.unit[:, None])
        steepness = np.zeros_like(grid)
        steepness[:, :-1] = 1 / np.diff(grid)
        # Few counts of a cell are large: the logarithms of the others are looked up.
        self.tables = np.stack([grid, reached, steepness], axis=1)


class CountRounding:
    """`CountRounding` brings one population's log1p expression to what whole counts of its cells can show.

    A value between two neighbours of a cell's `CountGrid` becomes one of them, the upper with the probability p that
    leaves its expectation as it was: small values become zeros and ones again, and the mean is kept in log1p space,
    where populations are compared.

    The cells of a gene do not draw apart: with u one uniform number, cell i of a group is rounded up where the running
    sum ``u + p_1 + ... + p_i`` passes a whole number (systematic sampling). As many cells are rounded up as the sum of
    their probabilities asks for, to within one, where separate draws would add their noise to the mean of every gene.
    `library` has the counts of each cell of the whole population, [cells].
    """

    def __init__(self, genes: int, library: np.ndarray, rng: np.random.Generator):
        self._edges = np.quantile(library, np.arange(1, STRATA) / STRATA)
        self.passed = rng.random((STRATA, genes))

    def strata(self, library: np.ndarray) -> np.ndarray:
        """Return the group of each cell, int [S]."""
        return np.searchsorted(self._edges, library)


class CellMaker:
    """A `CellMaker` makes sparse cells, a population's next ones at each call; its buffers serve all calls.

    `ceiling` is the largest value that a cell can have, log1p.
    """

    def __init__(self, genes: int, ceiling: float):
        self._ceiling = np.float32(ceiling)
        self._row = np.empty(genes, dtype=np.float32)
        self._columns, self._values = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)

    def __call__(
        self,
        start: sparse.csr_matrix,
        factor_G: np.ndarray,
        shift_G: np.ndarray,
        change_SG: np.ndarray | None,
        share: float,
        grid: CountGrid | None,
        rounding: CountRounding | None,
    ) -> sparse.csr_matrix | None:
        """Return ``start * factor + shift + share * change``, at least 0, at most the ceiling, and rounded.

        The start are control cells, log1p [S, G], and what the network changes is float32, or nothing. With the control
        cells' grid goes the population's rounding, which goes on from its last call; nothing is rounded where one is
        None. What is returned is log1p, float32 [S, G], or None where a value is not finite before it is brought into
        its range.
        """
        cells, genes = len(start.indptr) - 1, len(factor_G)
        if len(self._columns) < cells * genes:
            self._columns, self._values = np.empty(cells * genes, np.int32), np.empty(cells * genes, np.float32)
        change_SG = np.empty((0, genes), np.float32) if change_SG is None else change_SG
        rows = np.empty(cells + 1, dtype=np.int32)
        unit, tables, strata, passed = np.empty(0), np.empty((0, 3, 0)), np.empty(0, np.int64), np.empty((0, 0))
        if grid is not None and rounding is not None:
            strata, passed = rounding.strata(grid.library[:cells]), rounding.passed
            unit, tables = grid.unit, grid.tables
        place = (start.data, start.indices, start.indptr), (self._row, rows, self._columns, self._values)
        moves = change_SG, np.float32(share), factor_G, shift_G, self._ceiling
        if not _make(*place[0], *moves, unit, tables, strata, passed, *place[1]):
            return None
        taken = rows[-1]
        return sparse.csr_matrix(
            (self._values[:taken].copy(), self._columns[:taken].copy(), rows), shape=(cells, genes)
        )


@compiled
def _make(
    data, indices, pointers, change, share, factor, shift, ceiling,
    unit, tables, stratum, passed, row, rows, columns, values,
):  # fmt: skip
    """Write what is not 0 of the cells as CSR, and say whether all was finite."""
    # Unsigned indices spare the test for negative ones.
    place, one, nothing = np.uint64(0), np.uint64(1), np.float32(0)
    genes, finite = np.uint64(len(row)), True
    rows[0] = 0
    for cell in range(len(pointers) - 1):
        row[:] = nothing
        for i in range(pointers[cell], pointers[cell + 1]):
            row[indices[i]] = data[i]
        if len(change):
            for gene in range(genes):
                base, more = row[gene] * factor[gene] + shift[gene], share * change[cell, gene]
                seen = base + more
                finite &= seen - seen == nothing
                row[gene] = min(max(seen, nothing), ceiling)
        else:
            for gene in range(genes):
                base = row[gene] * factor[gene] + shift[gene]
                finite &= base - base == nothing
                row[gene] = min(max(base, nothing), ceiling)
        if not finite:
            return False
        if len(passed) == 0:
            for gene in range(genes):
                columns[place], values[place] = gene, row[gene]
                place += np.uint64(row[gene] > 0)
            rows[cell + 1] = place
            continue
        grid, reached, steepness = tables[cell, 0], tables[cell, 1], tables[cell, 2]
        sums = passed[stratum[cell]]
        for gene in range(genes):
            value = np.float64(row[gene])
            # The first counts are told apart without branches: which way a value goes cannot be foreseen.
            below = np.uint64(value >= reached[1]) + np.uint64(value >= reached[2]) + np.uint64(value >= reached[3])
            if value >= reached[4]:
                below = np.uint64(4)
                while below + one < _TABLE and value >= reached[below + one]:
                    below += one
            lower, upper, up = grid[below], grid[below + one], (value - grid[below]) * steepness[below]
            if value >= reached[_TABLE]:
                whole = np.floor(np.expm1(value) / unit[cell] + _SLACK)
                lower, upper = np.log1p(whole * unit[cell]), np.log1p((whole + 1) * unit[cell])
                up = (value - lower) / (upper - lower)
            reaching = sums[gene] + min(max(up, 0.0), 1.0)
            is_up = reaching >= 1
            sums[gene] = reaching - is_up
            rounded = upper if is_up else lower
            columns[place], values[place] = gene, rounded
            place += np.uint64(rounded > 0)
        rows[cell + 1] = place
    return True
