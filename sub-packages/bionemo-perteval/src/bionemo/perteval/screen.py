"""Observed and predicted cells on one panel and one scale: what is scored, and what the baselines may use."""

import zlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse as sp

Condition = tuple[str, str]
"""(context, perturbation)"""


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Observed and predicted cells on one gene panel, log1p.

    Attributes
    ----------
    genes
        Panel: the prediction's genes in its order [G].
    observed
        Observed cells, log1p float32 [N, G].
    library
        Counts per observed cell over all genes of the file [N]; None where the file holds log1p values.
    target_sum
        Counts per cell before log1p; None where the file holds log1p values.
    rows
        (context, perturbation) -> rows of `observed`, the control label included.
    predicted
        Scored condition -> predicted cells, log1p [n, G], n the number of observed cells of the condition.
    control
        Label of the control cells.
    training
        Conditions that the baselines may use: observed, not scored, not held out, in a context with control cells.
    notes
        What the reader of the report has to know about the input.
    """

    genes: np.ndarray
    observed: sp.csr_matrix
    library: np.ndarray | None
    target_sum: float | None
    rows: dict[Condition, np.ndarray]
    predicted: dict[Condition, sp.csr_matrix]
    control: str
    training: tuple[Condition, ...]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def scored(self) -> dict[str, list[str]]:
        """Context -> its scored perturbations, sorted."""
        contexts: dict[str, list[str]] = {}
        for context, perturbation in sorted(self.predicted):
            contexts.setdefault(context, []).append(perturbation)
        return contexts

    def cells(self, context: str, perturbation: str) -> sp.csr_matrix:
        """Return the observed cells of a condition, log1p [n, G]."""
        return self.observed[self.rows[context, perturbation]]

    def control_cells(self, context: str) -> sp.csr_matrix:
        """Return the observed control cells of a context, log1p [n, G]."""
        return self.cells(context, self.control)

    @cached_property
    def means(self) -> dict[Condition, np.ndarray]:
        """Condition -> mean of its observed cells, log1p float64 [G]."""
        order = list(self.rows)
        counts = np.array([self.rows[condition].size for condition in order])
        columns = np.concatenate([self.rows[condition] for condition in order])
        row_index = np.repeat(np.arange(len(order)), counts)
        shape = (len(order), cell_count(self.observed))
        average = sp.csr_matrix((1.0 / np.repeat(counts, counts), (row_index, columns)), shape=shape)
        means = sp.csr_matrix(average @ self.observed).toarray()
        return dict(zip(order, means, strict=True))

    def delta(self, context: str, perturbation: str) -> np.ndarray:
        """Return mean perturbed minus mean control cell of an observed condition, log1p [G]."""
        return self.means[context, perturbation] - self.means[context, self.control]


def cell_count(matrix: sp.csr_matrix) -> int:
    """Return the number of cells."""
    return matrix.indptr.size - 1


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a random generator of its own for every (seed, names), whatever the order in which they are asked for."""
    return np.random.default_rng([seed, zlib.crc32("\0".join(names).encode())])
