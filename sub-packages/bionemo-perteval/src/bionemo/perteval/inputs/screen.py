"""Hold observed and predicted cells on one panel and one scale."""

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import scipy.sparse as sp

from bionemo.perteval.inputs.scratch import ScratchCells
from bionemo.screens.controls import ControlRole, ControlRoles
from bionemo.screens.labels import Condition

Key = TypeVar("Key")

Population = sp.csr_matrix | np.ndarray
"""Cells, log1p float32 [n, G], sparse or dense."""


@dataclass(frozen=True)
class Populations(Mapping[Key, sp.csr_matrix]):
    """`Populations` give the cells of each key [n, G], cut out or made when they are asked for."""

    keyed: Collection[Key]
    make: Callable[[Key], sp.csr_matrix]

    def __getitem__(self, key: Key) -> sp.csr_matrix:
        return self.make(key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keyed)

    def __len__(self) -> int:
        return len(self.keyed)


@dataclass(frozen=True, kw_only=True)
class Screen:
    """A `Screen` holds observed and predicted cells on one gene panel, log1p."""

    genes: np.ndarray
    """Panel: the first prediction's genes in its order [G]."""
    observed: ScratchCells
    """Observed cells, log1p float32 [N, G]."""
    library: np.ndarray | None
    """Counts per observed cell over all genes of the file [N]; None where the file holds log1p values."""
    target_sum: float | None
    """Counts per cell before log1p; None where the file holds log1p values."""
    rows: dict[Condition, np.ndarray]
    """(context, perturbation) -> rows of `observed`, the control label included."""
    predictions: dict[str, tuple[Populations[Condition], ...]]
    """Arm -> its training seeds: scored condition -> predicted cells, log1p [n, G], n the number of observed cells of
    the condition. All have the same conditions."""
    control: str
    """Label of the control cells."""
    control_parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Context -> part of each of its control cells, in the order of `rows`; see `bionemo.screens.controls`."""
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Context -> labels of the columns that it is joined from; empty where one column holds it."""
    context_of: Mapping[str, str] = field(default_factory=dict)
    """What is scored apart -> the context that it is a subpopulation of; empty where contexts are scored as a whole."""
    left_out: tuple[Condition, ...] = ()
    """Predicted conditions that are not scored, because they have too few cells."""
    training: tuple[Condition, ...] = ()
    """Conditions that the baselines may use: observed, not predicted, not held out, in a context with control cells."""
    notices: tuple[str, ...] = ()
    """What the reader of the report has to know about the input first of all."""
    notes: tuple[str, ...] = ()
    """What the reader has to know about the input beside."""
    _means: dict[Condition, np.ndarray] = field(default_factory=dict, repr=False)

    @cached_property
    def scored(self) -> dict[str, list[str]]:
        """Context -> its scored perturbations, sorted."""
        contexts: dict[str, list[str]] = {}
        for context, perturbation in sorted(next(iter(self.predictions.values()))[0]):
            contexts.setdefault(context, []).append(perturbation)
        return contexts

    def whole(self, conditions: Iterable[Condition]) -> list[Condition]:
        """Return the conditions, each once, with whole contexts in place of subpopulations: what models trained on."""
        return list(dict.fromkeys((self.context_of.get(name, name), label) for name, label in conditions))

    @cached_property
    def training_by(self) -> tuple[dict[str, list[Condition]], dict[str, list[Condition]]]:
        """Context -> its training conditions, and perturbation -> its training conditions."""
        found: tuple[dict[str, list[Condition]], ...] = ({}, {})
        for condition in self.training:
            for label, having in zip(condition, found, strict=True):
                having.setdefault(label, []).append(condition)
        return found

    def cells(self, context: str, perturbation: str) -> sp.csr_matrix:
        """Return the observed cells of a condition, log1p [n, G]."""
        return self.observed[self.rows[context, perturbation]]

    def control_cells(self, context: str) -> sp.csr_matrix:
        """Return the observed control cells of a context, log1p [n, G]."""
        return self.cells(context, self.control)

    def control_rows(self, context: str, roles: ControlRoles, role: ControlRole) -> np.ndarray:
        """Return the rows of a context's control cells that have a role."""
        return self.rows[context, self.control][np.isin(self.control_parts[context], roles.parts(role))]

    def mean(self, context: str, perturbation: str) -> np.ndarray:
        """Return the mean of a condition's observed cells, log1p float64 [G]."""
        if (context, perturbation) not in self._means:
            self._means[context, perturbation] = mean_cell(self.cells(context, perturbation))
        return self._means[context, perturbation]

    def with_controls(self, context: str, rows: np.ndarray) -> "Screen":
        """Return the screen as seen by one who has only these control cells of a context, rows of `observed`."""
        condition = context, self.control
        means = {known: mean for known, mean in self._means.items() if known != condition}
        return replace(self, rows={**self.rows, condition: rows}, control_parts={}, _means=means)


def cell_count(cells: Population) -> int:
    """Return the number of cells."""
    return cells.shape[0] if isinstance(cells, np.ndarray) else cells.indptr.size - 1


def mean_cell(cells: Population) -> np.ndarray:
    """Return the mean over cells, float64 [G], summed in double precision."""
    if isinstance(cells, np.ndarray):
        return cells.mean(axis=0, dtype=np.float64)
    total = np.bincount(cells.indices, weights=cells.data, minlength=gene_count(cells))
    return total / cell_count(cells)


def gene_count(cells: Population) -> int:
    """Return the number of genes."""
    shape: tuple[int, int] = cells.shape  # type: ignore[assignment]
    return shape[1]


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a random generator of its own for every (seed, names), whatever the order in which they are asked for."""
    return np.random.default_rng([seed, zlib.crc32("\0".join(names).encode())])
