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
        self._row, self._high = np.empty(genes, dtype=np.float32), np.empty(genes, dtype=np.int32)
        self._columns, self._values = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
        # The first call loads what is compiled, which takes a third of a second: this one makes no cells.
        nothing_G = np.zeros(genes, dtype=np.float32)
        self(0, sparse.csr_matrix((0, genes), dtype=np.float32), nothing_G, nothing_G, None, 1.0, None, None)

    def __call__(
        self,
        cells: int,
        start: sparse.csr_matrix,
        factor_G: np.ndarray,
        shift_G: np.ndarray,
        change_SG: np.ndarray | None,
        share: float,
        grid: CountGrid | None,
        rounding: CountRounding | None,
    ) -> sparse.csr_matrix | None:
        """Return ``start * factor + shift + share * change``, at least 0, at most the ceiling, and rounded.

        The start are control cells, log1p [.., G], of which the first S, `cells`, are taken, and what the network
        changes is float32, or nothing. With the control cells' grid goes the population's rounding, which goes on from
        its last call; nothing is rounded where one is None. What is returned is log1p, float32 [S, G], or None where a
        value is not finite before it is brought into its range.
        """
        genes = len(factor_G)
        if len(self._columns) < cells * genes:
            self._columns, self._values = np.empty(cells * genes, np.int32), np.empty(cells * genes, np.float32)
        change_SG = np.empty((0, genes), np.float32) if change_SG is None else change_SG
        rows = np.empty(cells + 1, dtype=np.int32)
        unit, tables, strata, passed = np.empty(0), np.empty((0, 3, 0)), np.empty(0, np.int64), np.empty((0, 0))
        if grid is not None and rounding is not None:
            strata, passed = rounding.strata(grid.library[:cells]), rounding.passed
            unit, tables = grid.unit, grid.tables
        controls = start.data, start.indices, start.indptr[: cells + 1]
        moves = change_SG, np.float32(share), factor_G, shift_G, self._ceiling
        room = self._row, self._high, rows, self._columns, self._values
        if not _make(*controls, *moves, unit, tables, strata, passed, *room):
            return None
        taken = rows[-1]
        return sparse.csr_matrix(
            (self._values[:taken].copy(), self._columns[:taken].copy(), rows), shape=(cells, genes)
        )


@compiled
def _make(
    data, indices, pointers, change, share, factor, shift, ceiling,
    unit, tables, stratum, passed, row, high, rows, columns, values,
):  # fmt: skip
    """Write what is not 0 of the cells as CSR, and say whether all was finite."""
    place, no_change = np.uint64(0), np.empty(0, np.float32)
    rows[0] = 0
    for cell in range(len(pointers) - 1):
        row[:] = np.float32(0)
        for i in range(pointers[cell], pointers[cell + 1]):
            row[indices[i]] = data[i]
        if not _move(row, factor, shift, change[cell] if len(change) else no_change, share, ceiling):
            return False
        if len(passed):
            _round(row, high, unit[cell], tables[cell], passed[stratum[cell]])
        for gene in range(np.uint64(len(row))):  # unsigned numbers spare the test for negative ones
            columns[place], values[place] = gene, row[gene]
            place += np.uint64(row[gene] > 0)
        rows[cell + 1] = place
    return True


@compiled
def _move(row, factor, shift, change, share, ceiling):
    """Move one cell and bring it into its range; say whether it was finite before that."""
    nothing, infinite = np.float32(0), 0
    for gene in range(len(row)):
        moved = row[gene] * factor[gene] + shift[gene]
        if len(change):
            moved += share * change[gene]
        infinite += moved - moved != nothing
        row[gene] = min(max(moved, nothing), ceiling)
    return infinite == 0


@compiled
def _round(row, high, unit, table, sums):
    """Round one cell to whole counts; `sums` goes on from gene to gene's last cell, `high` is room for all genes."""
    grid, reached, steepness = table
    first, second, third, fourth = reached[1], reached[2], reached[3], reached[4]
    most = _round_low(row, high, sums, np.float32(first), np.float32(grid[1]), steepness[0])
    for i in range(most):
        gene = high[i]
        value = np.float64(row[gene])
        if value >= reached[_TABLE]:
            whole = np.floor(np.expm1(value) / unit + _SLACK)
            lower, upper = np.log1p(whole * unit), np.log1p((whole + 1) * unit)
            reaching = sums[gene] + min(max((value - lower) / (upper - lower), 0.0), 1.0)
            row[gene] = upper if reaching >= 1 else lower
        else:
            # Which way a value goes cannot be foreseen: the first counts are told apart, and rounded, without branches.
            below = np.uint64(1) + np.uint64(value >= second) + np.uint64(value >= third) + np.uint64(value >= fourth)
            while value >= reached[below + np.uint64(1)]:
                below += np.uint64(1)
            reaching = sums[gene] + max((value - grid[below]) * steepness[below], 0.0)
            row[gene] = grid[below + np.uint64(np.floor(reaching))]
        sums[gene] = reaching - np.floor(reaching)


@compiled
def _round_low(row, high, sums, limit, first, steepness):
    """Round values below the first count, several at once; write down the genes of the others, and return how many."""
    most = 0
    for gene in range(len(row)):
        high[most] = gene
        most += row[gene] >= limit
    for gene in range(len(row)):
        value = row[gene]
        is_low = value < limit
        reaching = sums[gene] + (np.float64(value) * steepness if is_low else 0.0)
        is_up = reaching >= 1
        sums[gene] = reaching - np.float64(is_up)
        rounded = first if is_up else np.float32(0)
        row[gene] = rounded if is_low else value
    return most
