"""Hold what a metric compares: the predicted and the observed side of one context."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bionemo.perteval.significance.mann_whitney import Tested, false_discovery_rates


@dataclass(frozen=True, kw_only=True)
class Side:
    """A `Side` holds P perturbations of one context, tested against control cells of its own."""

    perturbations: list[str]
    """Labels, sorted [P]."""
    control: str
    """Label of the control cells."""
    genes: np.ndarray
    """Names [G]."""
    control_mean: np.ndarray
    """Mean of this side's control cells, log1p [G]."""
    reference: np.ndarray
    """Mean perturbed cell of the context, log1p [G]."""
    tests: list[Tested]
    """One a perturbation [P]."""

    @cached_property
    def means(self) -> np.ndarray:
        """Mean cell of each perturbation, log1p [P, G]."""
        return np.stack([tested.moments.mean for tested in self.tests])

    @property
    def delta(self) -> np.ndarray:
        """Shift of each perturbation from the control cells, log1p [P, G]."""
        return self.means - self.control_mean

    @property
    def z(self) -> np.ndarray:
        """Standardised test statistics [P, G]."""
        return np.stack([tested.z for tested in self.tests])

    @cached_property
    def rates(self) -> np.ndarray:
        """False discovery rates over all genes of all perturbations together [P, G]."""
        return false_discovery_rates(self.tests)

    @property
    def own_genes(self) -> np.ndarray:
        """Column of the gene that each perturbation is named after; -1 for none [P]."""
        place = {gene: column for column, gene in enumerate(self.genes)}
        return np.array([place.get(name, -1) for name in self.perturbations])
