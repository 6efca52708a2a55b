"""Measure the cells of a panel as the Virtual Cell Challenge 2026 does: group profiles, their noise, and tests.

The definitions are sections 1 to 3 of the challenge's metric reference (cell-eval2, docs/vcc2026_metrics). Counts here
are of cells, float64 [n, G], sparse; they need not be whole.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy import stats

from bionemo.perteval.inputs.screen import Populations, cell_count, gene_count
from bionemo.perteval.metrics.jackknife import profile
from bionemo.perteval.significance import mann_whitney

FDR = 0.05
"""A gene is significant below this false discovery rate, over the tested genes of one perturbation."""

_CELL_SUM = 1e6
_TESTED_ABOVE = 5.0
_SMALL = 1e-9


@dataclass(frozen=True, kw_only=True)
class Controls:
    """`Controls` are control cells, measured once."""

    profile: np.ndarray
    """log1p of the summed counts, scaled to 50,000 [G]."""
    noise: float
    """Sampling variance of the profile, summed over genes."""
    tested: np.ndarray
    """Whether a gene has more than 5 counts per million, mean over cells [G]."""
    mean: np.ndarray
    """Counts per million, mean over cells [G]."""
    ranked: mann_whitney.SortedControls
    """The tested genes, sorted for the tests."""

    @classmethod
    def of(cls, counts: sp.csr_matrix) -> "Controls":
        """Measure control cells."""
        per_million = _per_million(counts)
        mean = _mean(per_million)
        tested = mean > _TESTED_ABOVE
        of_all, noise = profile(counts)
        ranked = mann_whitney.sort_controls(_logged(per_million, tested))
        return cls(profile=of_all, noise=noise, tested=tested, mean=mean, ranked=ranked)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """`Groups` are the cells of every perturbation of a panel, measured against control cells."""

    controls: Controls
    """The control cells."""
    profiles: np.ndarray
    """As that of `Controls`, a row each perturbation [P, G]."""
    noise: np.ndarray
    """As that of `Controls`, of each perturbation [P]."""
    p_value: np.ndarray
    """Two-sided Mann-Whitney p value [P, G]; 1 for genes that are not tested."""
    rate: np.ndarray
    """False discovery rate [P, G]; 1 for genes that are not tested."""
    change: np.ndarray
    """log2 fold change of the means per million [P, G]; NaN for genes that are not tested."""

    @classmethod
    def of(cls, counts: Mapping[str, sp.csr_matrix], controls: Controls, *, threads: int = 1) -> "Groups":
        """Measure the cells of each perturbation; a thread holds one perturbation in memory at a time."""
        groups, genes = len(counts), controls.profile.size
        profiles, noise = np.empty((groups, genes)), np.empty(groups)
        p_value, rate = np.ones((groups, genes)), np.ones((groups, genes))
        change = np.full((groups, genes), np.nan)
        tested = controls.tested

        def measure(place: int, name: str) -> None:
            cells = counts[name]
            profiles[place], noise[place] = profile(cells)
            per_million = _per_million(cells)
            by_gene = mann_whitney.sort_cells(_logged(per_million, tested))
            found = mann_whitney.test(by_gene, controls.ranked).p_value
            p_value[place, tested] = found
            rate[place, tested] = stats.false_discovery_control(found, method="bh")
            ratio = (_mean(per_million)[tested] + _SMALL) / (controls.mean[tested] + _SMALL)
            change[place, tested] = np.log2(ratio)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(measure, range(groups), counts))
        return cls(controls=controls, profiles=profiles, noise=noise, p_value=p_value, rate=rate, change=change)


def mean_response(controls: sp.csr_matrix, truth: Mapping[str, sp.csr_matrix], own: np.ndarray) -> Populations[str]:
    """Return cells whose expected counts are the mean response: what a model knows that knows no perturbation.

    Control cells are drawn with replacement, as many as were observed, and their counts scaled gene by gene. A gene's
    mean leaves the perturbations out that target it, as `own` says, bool [P, G].
    """
    total, sizes = np.zeros(gene_count(controls)), {}
    for (name, cells), targets in zip(truth.items(), own, strict=True):
        sizes[name] = cell_count(cells)
        total += np.where(targets, 0.0, _mean(cells))
    control_mean = _mean(controls)
    scale = np.divide(total / (~own).sum(axis=0), control_mean, out=np.zeros_like(total), where=control_mean > 0)
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, cell_count(controls), size=sizes[name]) for name in sorted(truth)}

    def make(name: str) -> sp.csr_matrix:
        cells = controls[rows[name]]
        # The challenge's file of these cells is in single precision.
        data = (cells.data.astype(np.float32) * scale[cells.indices]).astype(np.float32).astype(np.float64)
        return sp.csr_matrix((data, cells.indices, cells.indptr), shape=cells.shape)

    return Populations(list(truth), make)


def _per_million(counts: sp.csr_matrix) -> sp.csr_matrix:
    sizes = np.asarray(counts.sum(axis=1)).ravel()
    per_cell = np.repeat(np.where(sizes > 0, sizes, 1.0) / _CELL_SUM, np.diff(counts.indptr))
    return sp.csr_matrix((counts.data / per_cell, counts.indices, counts.indptr), shape=counts.shape)


def _logged(per_million: sp.csr_matrix, tested: np.ndarray) -> sp.csr_matrix:
    kept = sp.csr_matrix(per_million[:, tested])
    return sp.csr_matrix((np.log1p(kept.data).astype(np.float32), kept.indices, kept.indptr), shape=kept.shape)


def _mean(cells: sp.csr_matrix) -> np.ndarray:
    return np.asarray(cells.sum(axis=0)).ravel() / cell_count(cells)
