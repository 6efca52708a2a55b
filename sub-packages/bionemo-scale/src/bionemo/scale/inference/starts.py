"""The control cells that a predicted population starts from."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from bionemo.scale.inference.populations import Population

LARGEST_SCALE = 2.0
"""A gene of the drawn cells is scaled by at most so much, up or down."""


@dataclass(frozen=True)
class Start:
    """One population and where it starts."""

    population: Population
    pool: np.ndarray
    """Rows of all control cells that it may start from."""
    rows: np.ndarray
    """One of them for each cell to predict, in random order."""

    def scale(self, expression: sparse.csr_matrix) -> np.ndarray:
        """What each gene of the drawn cells is multiplied by, so that their mean is that of the whole pool.

        A population of n cells shows its mean shift under the noise of drawing n control cells, though the mean of all
        of them is known. Zeros stay zeros.

        Parameters
        ----------
        expression
            log1p [control cells, G].

        Returns
        -------
        numpy.ndarray
            float32 [G].
        """
        wanted, drawn = (_mean(expression, rows) for rows in (self.pool, self.rows))
        ratio = np.divide(wanted, drawn, out=np.ones_like(wanted), where=drawn > 0)
        return ratio.clip(1 / LARGEST_SCALE, LARGEST_SCALE).astype(np.float32)


def _mean(expression: sparse.csr_matrix, rows: np.ndarray) -> np.ndarray:
    chosen: sparse.csr_matrix = expression[rows]  # type: ignore[index]
    return np.asarray(chosen.mean(0), dtype=np.float64).ravel()


def draw(population: Population, pool: np.ndarray, rng: np.random.Generator) -> Start:
    """Take rows of the pool, none twice before all were taken once."""
    rounds = [rng.permutation(pool) for _ in range(-(-population.cells // len(pool)))]
    return Start(population, pool, np.concatenate(rounds)[: population.cells])
