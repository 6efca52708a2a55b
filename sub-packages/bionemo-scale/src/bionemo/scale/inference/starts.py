"""Find the control cells that a predicted population starts from."""

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from bionemo.scale.inference.controls import ControlCells
from bionemo.scale.inference.populations import Population
from bionemo.screens.errors import InputError, name_list

LARGEST_SCALE = 2.0
"""A gene of the drawn cells is scaled by at most so much, up or down."""
CONTEXTS_KEPT = 4
"""The control cells of so many contexts are in memory at once."""


def chance(seed: int, *names: object) -> np.random.Generator:
    """Return a generator that depends on a seed and some names alone, not on what was drawn before."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


@dataclass(frozen=True)
class ContextCells:
    """`ContextCells` are the control cells of a context, in memory."""

    rows: np.ndarray
    """int [n], among all control cells."""
    expression: sparse.csr_matrix
    """float32 [n, G], log1p."""
    library: np.ndarray
    """float64 [n]"""
    mean_G: np.ndarray
    """float64 [G]"""


class Pools:
    """`Pools` finds the cells that a population starts from: of its batch, or of its context where that has none."""

    def __init__(self, cells: ControlCells):
        self.cells = cells
        self._contexts: OrderedDict[str, ContextCells] = OrderedDict()
        by = cells.contexts if cells.batches is None else np.stack([cells.contexts, cells.batches], axis=1)
        self._batches = set(map(tuple, by.tolist())) if by.ndim > 1 else set()
        order = np.argsort(cells.contexts, kind="stable")
        names, first = np.unique(cells.contexts[order], return_index=True)
        self._rows = dict(zip(names.tolist(), np.split(order, first[1:]), strict=True)) if len(order) else {}

    def of_context(self, context: str) -> ContextCells:
        """Return all control cells of a context that predictions may start from; an InputError where there is none."""
        if context in self._contexts:
            self._contexts.move_to_end(context)
            return self._contexts[context]
        if context not in self._rows:
            raise self._without(context)
        rows = self._rows[context]
        expression, library = self.cells.read(self.cells.rows[rows])
        found = ContextCells(rows, expression, library, np.asarray(expression.mean(0), dtype=np.float64).ravel())
        self._contexts[context] = found
        if len(self._contexts) > CONTEXTS_KEPT:
            self._contexts.popitem(last=False)
        return found

    def has(self, context: str, batch: str | None) -> bool:
        """Say whether a batch of a context has control cells of its own."""
        return (context, batch) in self._batches

    def members(self, context: str, batch: str | None) -> np.ndarray:
        """Return which cells of :meth:`of_context` populations of a batch start from, int [n]."""
        rows = self.of_context(context).rows
        if not self.has(context, batch):
            return np.arange(len(rows))
        assert self.cells.batches is not None
        return np.flatnonzero(self.cells.batches[rows] == batch)

    def check(self, populations: Sequence[Population]) -> None:
        """Raise an InputError where a population has no control cells to start from."""
        for context in sorted({population.context for population in populations} - self._rows.keys()):
            raise self._without(context)

    def notices(self, populations: Sequence[Population]) -> list[str]:
        """Say which batches have no control cells of their own."""
        if self.cells.batches is None:
            return []  # said once, by read_controls
        asked = {(p.context, p.batch) for p in populations if p.batch is not None}
        without = [f"{batch} of {context}" for context, batch in sorted(asked - self._batches)]
        if not without:
            return []
        return [
            f"{self.cells.source} has no control cell of batch {name_list(without, 5)} to start from: those "
            f"populations start from the context's other batches."
        ]

    def _without(self, context: str) -> InputError:
        source = self.cells.source
        others = sum(cells for (of, _), cells in self.cells.sizes.items() if of == context)
        if not others:
            return InputError(
                f"{source} has no control cell of context {context!r}, so nothing can be predicted there: "
                f"add its control cells, or leave the context out."
            )
        return InputError(
            f"The {others} control cells of context {context!r} in {source} are too few to divide: none has the role "
            f"'input', which predictions start from. Add control cells, leave the context out, or choose "
            f"--control-roles shared."
        )


class Draw:
    """A `Draw` is an endless order of control cells, none twice before all were taken once.

    Every population of a (context, batch) starts from the first of them, as many as it has cells. The members, int [n],
    are what is drawn from.
    """

    def __init__(self, members: np.ndarray, rng: np.random.Generator):
        self._members, self._rng = members, rng
        self._order = np.empty(0, dtype=members.dtype)

    def first(self, cells: int) -> np.ndarray:
        """Return the first cells, int [cells]."""
        missing = -(-(cells - len(self._order)) // len(self._members))
        rounds = [self._rng.permutation(self._members) for _ in range(missing)]
        self._order = np.concatenate([self._order, *rounds])
        return self._order[:cells]


def scale_to(mean_G: np.ndarray, drawn: sparse.csr_matrix) -> np.ndarray:
    """Return what each gene of drawn cells, log1p [n, G], is multiplied by, so that their mean is that of all.

    A population of n cells shows its mean shift under the noise of drawing n control cells, though the mean of all of
    them, `mean_G`, is known. Zeros stay zeros. What is returned is float32 [G].
    """
    drawn_G = np.asarray(drawn.mean(0), dtype=np.float64).ravel()
    ratio_G = np.divide(mean_G, drawn_G, out=np.ones_like(drawn_G), where=drawn_G > 0)
    return ratio_G.clip(1 / LARGEST_SCALE, LARGEST_SCALE).astype(np.float32)
