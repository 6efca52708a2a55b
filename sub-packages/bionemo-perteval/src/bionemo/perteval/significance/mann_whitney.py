"""Test a population against control cells, gene by gene: Mann-Whitney test, fold change, moments.

The numbers are those of pdex 0.1 with its defaults: two-sided test with tie and continuity correction, the exact
distribution where a side has at most eight cells and nothing is tied, fold changes of expm1(mean log1p). Ranks are
summed in double precision, where pdex keeps the precision of its input.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy import special, stats

from bionemo.perteval.inputs.screen import Population, cell_count, gene_count
from bionemo.perteval.significance.compiled import compiled
from bionemo.perteval.significance.rank_kernels import rank_genes, sort_genes

FDR = 0.05
"""A gene is differentially expressed below this false discovery rate."""

_CLIPPED_FOLD = 20.0
_FEW_CELLS = 8


@dataclass(frozen=True, kw_only=True)
class Moments:
    """`Moments` describe a population gene by gene."""

    cells: int
    """Number of cells."""
    mean: np.ndarray
    variance: np.ndarray
    """Both are moments of log1p values, float64 [G]."""
    zeros: np.ndarray
    """Fraction of cells without expression [G]."""


@dataclass(frozen=True, kw_only=True)
class SortedCells:
    """`SortedCells` are a population, sorted once for all tests of it."""

    values: np.ndarray
    starts: np.ndarray
    """Gene g has the sorted ``values[starts[g]:starts[g + 1]]``, and the rest of its cells are zero."""
    cells: int
    """Number of cells."""


@dataclass(frozen=True, kw_only=True)
class SortedControls(SortedCells):
    """`SortedControls` are control cells, sorted once for all tests against them; none of the values is zero."""

    ties: np.ndarray
    """Sum of ``c**3 - c`` over groups of c equal non-zero values [G]."""
    moments: Moments
    """Moments of the control cells."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A `Tested` holds the tests of a population against control cells."""

    p_value: np.ndarray
    """Two-sided, not corrected for multiple testing [G]."""
    z: np.ndarray
    """Standardised statistic, positive where the population is higher, without continuity correction [G]."""
    fold_change: np.ndarray
    """Ratio of expm1 of the means, 20 or 1/20 where one of them is zero [G]."""
    moments: Moments
    """Moments of the population."""


def sort_cells(cells: Population) -> SortedCells:
    """Sort a population, log1p [n, G], gene by gene."""
    values, starts = _by_gene(cells)
    compiled(sort_genes)(values, starts)
    return SortedCells(values=values, starts=starts, cells=cell_count(cells))


def sort_controls(cells: Population) -> SortedControls:
    """Sort control cells, log1p [n, G], gene by gene."""
    own, genes = sort_cells(cells), gene_count(cells)
    nothing = SortedCells(values=own.values[:0], starts=np.zeros_like(own.starts), cells=0)
    _, ties, sums = _rank(own, nothing, np.zeros(genes))
    # What is left after the group of zeros is the ties among the others.
    zeros = own.cells - sums[2]
    kept = np.concatenate([[0], np.cumsum(sums[2], dtype=np.int64)])
    return SortedControls(
        values=own.values[own.values != 0],
        starts=kept.astype(own.starts.dtype),
        cells=own.cells,
        ties=ties - (zeros**3 - zeros),
        moments=_moments(sums, own.cells),
    )


def test(cells: SortedCells, controls: SortedControls) -> Tested:
    """Test every gene of a population against the control cells."""
    own, others = cells.cells, controls.cells
    u, ties, sums = _rank(cells, controls, controls.ties)
    both = own + others
    centre = own * others / 2
    spread = np.sqrt(np.maximum(own * others / 12 * ((both + 1) - ties / (both * (both - 1))), 0.0))
    tied = spread == 0
    safe = np.where(tied, 1.0, spread)
    p_value = np.clip(2 * special.ndtr(-(np.abs(u - centre) - 0.5) / safe), 0.0, 1.0)
    p_value[tied] = 1.0
    if min(own, others) <= _FEW_CELLS:
        for gene in np.flatnonzero(ties == 0):
            sides = _column(cells, gene), _column(controls, gene)
            p_value[gene] = stats.mannwhitneyu(*sides, method="exact").pvalue
    moments = _moments(sums, own)
    return Tested(
        p_value=p_value,
        z=np.where(tied, 0.0, (u - centre) / safe),
        fold_change=fold_change(moments.mean, controls.moments.mean),
        moments=moments,
    )


def fold_change(mean: np.ndarray, control_mean: np.ndarray) -> np.ndarray:
    """Return the ratio of expm1 of two log1p means [G]; 1 where both are zero, 20 or 1/20 where one is."""
    above, below = np.expm1(mean), np.expm1(control_mean)
    ratio = np.divide(above, below, out=np.full_like(above, _CLIPPED_FOLD), where=below != 0)
    ratio[(above == 0) & (below != 0)] = 1 / _CLIPPED_FOLD
    ratio[(above == 0) & (below == 0)] = 1.0
    return ratio


def false_discovery_rates(tests: list[Tested]) -> np.ndarray:
    """Return Benjamini-Hochberg rates over all genes of all populations together, as pdex 0.1 does [P, G]."""
    p_values = np.stack([tested.p_value for tested in tests])
    return stats.false_discovery_control(p_values.ravel(), method="bh").reshape(p_values.shape)


def _by_gene(cells: Population) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy of the values, gene after gene, and where each gene starts."""
    if isinstance(cells, np.ndarray):
        values = np.ascontiguousarray(cells.T, dtype=np.float32).ravel()
        return values if values.base is None else values.copy(), np.arange(gene_count(cells) + 1) * cell_count(cells)
    columns = sp.csc_matrix(cells)
    return np.asarray(columns.data, dtype=np.float32), columns.indptr.astype(np.int64)


def _rank(
    cells: SortedCells, controls: SortedCells, control_ties: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the statistic [G], the ties [G] and the sums [3, G], as `_rank_genes` gives them."""
    genes = cells.starts.size - 1
    found = np.empty(genes), np.empty(genes), np.empty((3, genes))
    groups = cells.values, cells.starts, cells.cells, controls.values, controls.starts, controls.cells
    compiled(rank_genes)(*groups, control_ties, *found)
    return found


def _moments(sums: np.ndarray, cells: int) -> Moments:
    mean = sums[0] / cells
    return Moments(
        cells=cells, mean=mean, variance=np.maximum(sums[1] / cells - mean**2, 0.0), zeros=1.0 - sums[2] / cells
    )


def _column(cells: SortedCells, gene: int) -> np.ndarray:
    """Return one gene with its zeros [n]."""
    column = np.zeros(cells.cells)
    own = cells.values[cells.starts[gene] : cells.starts[gene + 1]]
    column[: own.size] = own
    return column
