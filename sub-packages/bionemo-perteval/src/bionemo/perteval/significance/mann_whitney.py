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
from bionemo.perteval.significance.rank_kernels import kernels

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
class SortedControls:
    """`SortedControls` are control cells, sorted once for all tests against them."""

    values: np.ndarray
    starts: np.ndarray
    """Gene g has the sorted non-zero ``values[starts[g]:starts[g + 1]]``."""
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
    kernels()[0](values, starts)
    return SortedCells(values=values, starts=starts, cells=cell_count(cells))


def sort_controls(cells: Population) -> SortedControls:
    """Sort control cells, log1p [n, G], gene by gene."""
    own = sort_cells(cells)
    values, starts, genes = own.values, own.starts, gene_count(cells)
    nothing = np.zeros(genes + 1, dtype=starts.dtype)
    _, ties, moments = _rank(values, starts, cell_count(cells), values[:0], nothing, 0, np.zeros(genes))
    # What is left after the group of zeros is the ties among the others.
    zeros = cell_count(cells) - moments[2]
    keep = values != 0
    kept = np.concatenate([[0], np.cumsum(moments[2], dtype=np.int64)])
    return SortedControls(
        values=values[keep],
        starts=kept.astype(starts.dtype),
        ties=ties - (zeros**3 - zeros),
        moments=_moments(moments, cell_count(cells)),
    )


def test(cells: SortedCells, controls: SortedControls) -> Tested:
    """Test every gene of a population against the control cells.

    Parameters
    ----------
    cells
        Result of `sort_cells`.
    controls
        Result of `sort_controls`.
    """
    values, starts, own, others = cells.values, cells.starts, cells.cells, controls.moments.cells
    u, ties, sums = _rank(values, starts, own, controls.values, controls.starts, others, controls.ties)
    both = own + others
    centre = own * others / 2
    spread = np.sqrt(np.maximum(own * others / 12 * ((both + 1) - ties / (both * (both - 1))), 0.0))
    tied = spread == 0
    safe = np.where(tied, 1.0, spread)
    p_value = np.clip(2 * special.ndtr(-(np.abs(u - centre) - 0.5) / safe), 0.0, 1.0)
    p_value[tied] = 1.0
    if min(own, others) <= _FEW_CELLS:
        for gene in np.flatnonzero(ties == 0):
            column = _column(values, starts, own, gene)
            reference = _column(controls.values, controls.starts, others, gene)
            p_value[gene] = stats.mannwhitneyu(column, reference, method="exact").pvalue
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
    values: np.ndarray,
    starts: np.ndarray,
    cells: int,
    controls: np.ndarray,
    control_starts: np.ndarray,
    control_cells: int,
    control_ties: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    genes = starts.size - 1
    statistic, ties, sums = np.empty(genes), np.empty(genes), np.empty((3, genes))
    rank = kernels()[1]
    rank(
        values, starts, cells, controls, control_starts, control_cells, control_ties, statistic, ties, sums
    )  # fmt: skip
    return statistic, ties, sums


def _moments(sums: np.ndarray, cells: int) -> Moments:
    mean = sums[0] / cells
    return Moments(
        cells=cells, mean=mean, variance=np.maximum(sums[1] / cells - mean**2, 0.0), zeros=1.0 - sums[2] / cells
    )


def _column(values: np.ndarray, starts: np.ndarray, cells: int, gene: int) -> np.ndarray:
    """Return one gene with its zeros [n]."""
    column = np.zeros(cells)
    own = values[starts[gene] : starts[gene + 1]]
    column[: own.size] = own
    return column
