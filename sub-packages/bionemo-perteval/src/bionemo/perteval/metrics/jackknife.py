"""Measure the profile of a group of cells, and how much of it is the sampling of these cells: the delete-one jackknife.

The definitions are section 1 of the metric reference of the Virtual Cell Challenge 2026 (cell-eval2,
docs/vcc2026_metrics). Shapes: n cells, G genes.
"""

import numpy as np
import scipy.sparse as sp

from bionemo.perteval.inputs.screen import cell_count
from bionemo.perteval.significance.compiled import compiled

_GROUP_SUM = 5e4
_LARGEST_GROWTH = 0.25
"""The series is for cells without which the shares of other genes grow by at most so much."""
_SMALLEST_TERM = 1e-17


def profile(counts: sp.csr_matrix) -> tuple[np.ndarray, float]:
    """Return the profile of a group, and its sampling variance by the delete-one jackknife, summed over genes.

    The profile is log1p of the summed counts, scaled to 50,000 [G]; `counts` are of its cells, float64 [n, G], and need
    not be whole.
    """
    sums, sizes = np.asarray(counts.sum(axis=0)).ravel(), np.asarray(counts.sum(axis=1)).ravel()
    total, cells = float(sums.sum()), cell_count(counts)
    if total <= 0:
        return np.zeros_like(sums), 0.0
    whole = np.log1p(_GROUP_SUM * sums / total)
    if cells < 2:
        return whole, 0.0
    left = total - sizes
    large = sizes > _LARGEST_GROWTH * left
    first, second = _by_series(counts[~large] if large.any() else counts, sums, sizes[~large], left[~large], whole)
    if large.any():  # at most four cells
        shift = _shifts(counts[large].toarray(), sums, left[large, None], whole)
        first, second = first + shift.sum(axis=0), second + (shift**2).sum(axis=0)
    return whole, max((cells - 1) / cells * float((second - first**2 / cells).sum()), 0.0)


def _shifts(taken: np.ndarray, sums: np.ndarray, left: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return how far the profile shifts without the counts of each cell [n, G]."""
    without = np.log1p(_GROUP_SUM * (sums - taken) / np.where(left > 0, left, 1.0))
    return np.where(left > 0, without, 0.0) - whole


def _by_series(
    counts: sp.csr_matrix, sums: np.ndarray, sizes: np.ndarray, left: np.ndarray, whole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of the shifts of the profile, each cell left out in turn, and of their squares [G] each.

    Without a cell, the shares of all genes that it has no count of grow by one factor, ``1 + growth``. With `a` the
    scaled sum of such a gene and ``u = a / (1 + a)``, its profile shifts by ``log1p(u * growth)``. Summed over cells,
    the power series of that in u has sums of powers of `growth` as coefficients, which all genes share, and so has the
    series of its square, with harmonic numbers. The counts above 0 are then put in their place one by one.
    """
    growth, share = sizes / left, -np.expm1(-whole)
    first, second = np.zeros_like(sums), np.zeros_like(sums)
    of_growth, of_share, harmonic, order = growth, share, 0.0, 1
    while (coefficient := float(of_growth.sum())) > _SMALLEST_TERM:
        term = (-1) ** (order + 1) * coefficient / order * of_share
        first += term
        second -= 2 * harmonic * term
        harmonic += 1 / order
        of_growth, of_share, order = of_growth * growth, of_share * share, order + 1
    given = counts.data, counts.indices, counts.indptr
    of_all = np.expm1(whole), np.exp(-whole)
    compiled(_put_counts)(*given, sums, growth, left, *of_all, share, first, second)
    return first, second


def _put_counts(data, genes, pointers, sums, growth, left, scaled, inverse, share, first, second):
    """Put the shifts of genes that a cell has counts of in the place of what the series took them for.

    A shift is ``log1p(r)``, where ``1 + r`` is what the profile is the logarithm of without the cell, times the
    `inverse` of that with all cells.
    """

    def log1p(x):
        # Small numbers are most: the series of 2 artanh(x / (2 + x)) then has all digits but the last.
        s = x / (2 + x)
        q = s * s
        series = 2 * s * (1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q / 13))))))
        return series if abs(x) < 0.0625 else np.log1p(x)

    for cell in range(len(left)):
        for place in range(pointers[cell], pointers[cell + 1]):
            gene = genes[place]
            taken = log1p(share[gene] * growth[cell])
            without = _GROUP_SUM * (sums[gene] - data[place]) / left[cell]
            shift = log1p((without - scaled[gene]) * inverse[gene])
            first[gene] += shift - taken
            second[gene] += shift * shift - taken * taken
