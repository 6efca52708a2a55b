"""Draw the control cells that a predicted population starts from."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from bionemo.scale.inference.controls import ControlCells
from bionemo.scale.inference.populations import Population
from bionemo.screens.errors import InputError, name_list

LARGEST_SCALE = 2.0
"""A gene of the drawn cells is scaled by at most so much, up or down."""


@dataclass(frozen=True)
class Pool:
    """A `Pool` holds control cells that populations may start from: those of a context, or of one of its batches."""

    expression: sparse.csr_matrix
    """log1p [control cells, G] of all pools."""
    rows: np.ndarray
    """int [cells of the pool], their rows."""

    @cached_property
    def mean_G(self) -> np.ndarray:
        """Return the mean log1p of each gene over the pool, float64 [G]."""
        return _mean(self.expression, self.rows)


class Pools:
    """`Pools` finds the cells that a population starts from: of its batch, or of its context where that has none."""

    def __init__(self, cells: ControlCells):
        self.cells = cells
        rows: dict[tuple[str, str | None], list[int]] = defaultdict(list)
        for row, context in enumerate(cells.contexts):
            rows[context, None].append(row)
            if cells.batches is not None:
                rows[context, cells.batches[row]].append(row)
        self._pools = {key: Pool(cells.expression, np.array(found)) for key, found in rows.items()}

    def of_context(self, context: str) -> Pool:
        """Return all control cells of a context that predictions may start from.

        Raises
        ------
        InputError
            There is none, or none that predictions may start from.
        """
        if (context, None) not in self._pools:
            others = sum(cells for (of, _), cells in self.cells.sizes.items() if of == context)
            if others:
                raise InputError(
                    f"The {others} control cells of context {context!r} in {self.cells.source} are too few to divide: "
                    f"none has the role 'input', which predictions start from. Add control cells, leave the context "
                    f"out, or choose --control-roles shared."
                )
            raise InputError(
                f"{self.cells.source} has no control cell of context {context!r}, so nothing can be predicted there: "
                f"add its control cells, or leave the context out."
            )
        return self._pools[context, None]

    def of(self, population: Population) -> Pool:
        """Return the control cells that a population starts from; an InputError where its context has none."""
        return self._pools.get((population.context, population.batch)) or self.of_context(population.context)

    def notices(self, populations: Sequence[Population]) -> list[str]:
        """Say which batches have no control cells of their own."""
        if self.cells.batches is None:
            return []  # said once, by read_controls
        asked = {(p.context, p.batch) for p in populations if p.batch is not None}
        without = [f"{batch} of {context}" for context, batch in sorted(asked - self._pools.keys())]
        if not without:
            return []
        return [
            f"{self.cells.source} has no control cell of batch {name_list(without, 5)} to start from: those "
            f"populations start from the context's other batches."
        ]


@dataclass(frozen=True)
class Start:
    """A `Start` is one population and the control cells that it starts from."""

    population: Population
    pool: Pool
    rows: np.ndarray
    """int [cells to predict], rows of the pool's in random order."""

    def scale_G(self) -> np.ndarray:
        """Return what each gene of the drawn cells is multiplied by, so that their mean is the pool's, float32 [G].

        A population of n cells shows its mean shift under the noise of drawing n control cells, though the mean of all
        of them is known. Zeros stay zeros.
        """
        drawn_G = _mean(self.pool.expression, self.rows)
        ratio_G = np.divide(self.pool.mean_G, drawn_G, out=np.ones_like(drawn_G), where=drawn_G > 0)
        return ratio_G.clip(1 / LARGEST_SCALE, LARGEST_SCALE).astype(np.float32)


def draw(population: Population, pool: Pool, rng: np.random.Generator) -> Start:
    """Take cells of the pool, none twice before all were taken once."""
    rounds = [rng.permutation(pool.rows) for _ in range(-(-population.cells // len(pool.rows)))]
    return Start(population, pool, np.concatenate(rounds)[: population.cells])


def _mean(expression: sparse.csr_matrix, rows: np.ndarray) -> np.ndarray:
    chosen: sparse.csr_matrix = expression[rows]  # type: ignore[index]
    return np.asarray(chosen.mean(0), dtype=np.float64).ravel()
