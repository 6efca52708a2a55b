"""Find the two points between which the members of the Virtual Cell Challenge 2026 are scaled, from observed cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import scipy.sparse as sp

from bionemo.perteval.inputs.screen import Populations, cell_count
from bionemo.perteval.metrics import challenge
from bionemo.perteval.metrics.panel import FDR, Controls, Groups, mean_response

_DIVISIONS = 5


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A `Panel` holds the observed cells of a context, and scores predicted ones against them."""

    genes: np.ndarray
    """Names [G]."""
    control: str
    """Label of the control cells."""
    controls: sp.csr_matrix
    """Counts of control cells, float64 [n, G]."""
    truth: Mapping[str, sp.csr_matrix]
    """Perturbation -> counts of its cells, float64 [n, G]."""
    threads: int = 1
    """How many share the perturbations."""

    @cached_property
    def own(self) -> np.ndarray:
        """Return whether a perturbation targets a gene, by its name, bool [P, G]."""
        return np.array(list(self.truth))[:, None] == self.genes

    @cached_property
    def observed(self) -> Groups:
        """Return the observed cells, measured."""
        return Groups.of(self.truth, Controls.of(self.controls), threads=self.threads)

    @cached_property
    def zero(self) -> dict[str, float]:
        """Return the values of the mean observed response, given to every perturbation."""
        return self.values(mean_response(self.controls, self.truth, self.own))

    @cached_property
    def one(self) -> dict[str, float]:
        """Return the values of one half of the cells against the other, mean over five divisions.

        Each half has its own half of the control cells. Which genes count for the error of fold changes, and what it is
        divided by, comes from all cells.
        """
        found = [self._halved(int(seed)) for seed in np.random.SeedSequence(0).generate_state(_DIVISIONS)]
        names = [name for name in challenge.MEMBERS if all(name in values for values in found)]
        return {name: float(np.mean([values[name] for values in found])) for name in names}

    def values(self, cells: Mapping[str, sp.csr_matrix]) -> dict[str, float]:
        """Return the values of predicted cells, in the order of the observed perturbations."""
        predicted = Groups.of(cells, self.observed.controls, threads=self.threads)
        return challenge.values(predicted, self.observed, self.own, self.genes)

    def score(self, cells: Mapping[str, sp.csr_matrix]) -> tuple[dict[str, float], dict[str, float]]:
        """Return values and scaled values of predicted cells, by member; a member without one is left out."""
        values = self.values(cells)
        return values, challenge.scale(values, self.zero, self.one)

    def _cells(self, name: str) -> sp.csr_matrix:
        return self.controls if name == self.control else self.truth[name]

    def _halved(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng(seed)
        orders = {name: rng.permutation(cell_count(self._cells(name))) for name in sorted([self.control, *self.truth])}

        def half(name: str, which: int) -> sp.csr_matrix:
            size = orders[name].size // 2
            return self._cells(name)[orders[name][which * size : (which + 1) * size]]

        first, second = (
            Groups.of(
                Populations(list(self.truth), partial(half, which=which)),
                Controls.of(half(self.control, which)),
                threads=self.threads,
            )
            for which in (0, 1)
        )
        values = challenge.values(second, first, self.own, self.genes)
        gate = (self.observed.rate < FDR) & ~self.own
        values["de_wilcoxon_lfc_nmae"] = challenge.change_error(second.change, first.change, self.observed.change, gate)
        return {name: value for name, value in values.items() if np.isfinite(value)}
