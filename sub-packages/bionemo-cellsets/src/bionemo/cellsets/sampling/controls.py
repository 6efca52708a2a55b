"""Draw the control cells that stand beside a set: those of its (context, batch), else those of its context.

Only control cells of the role ``input`` are drawn. A set may be one of such cells itself. Its pool is then the run that
its own cells come from.
"""

import numpy as np

from bionemo.cellsets.sampling.set_slices import slices, spread
from bionemo.cellsets.store.cell_store import CellStore
from bionemo.cellsets.store.hashing import mix
from bionemo.screens.controls import ControlRole, ControlRoles
from bionemo.screens.errors import InputError


class ControlPools:
    """A `ControlPools` has the pool of control cells of every run.

    The cells of a store that `roles` makes inputs form one sequence, in its order. Runs are sorted by context,
    perturbation and batch, so those of a context, and of a batch in it, are one stretch of that sequence: a pool. A
    split does not limit it. An InputError names a context without input cells.

    Attributes
    ----------
    start, length : int64 array [n_runs]
        The pool of each run, in the sequence of input cells.
    fallback : bool array [n_runs]
        Runs whose batch has no input cells; their pool is all input cells of the context.
    """

    def __init__(self, store: CellStore, roles: ControlRoles = ControlRoles()):
        runs, self._in_pool = store.runs, store.has_role(ControlRole.INPUT, roles)
        inputs = np.flatnonzero(self._in_pool)
        cells = runs["length"][inputs]
        self._first = np.cumsum(cells) - cells
        self._to_row = runs["start"][inputs] - self._first
        batch = np.unique(runs[["context", "batch"]], return_inverse=True)[1].reshape(-1)
        start, length = self._stretches(runs["context"], inputs, cells)
        if not length.all():
            raise InputError(
                f"The context '{store.contexts[runs['context'][length == 0][0]]}' of {store.path} has no control cells "
                f"('{store.control}') to predict from: prepare the store with more of them"
            )
        of_batch = self._stretches(batch, inputs, cells)
        self.fallback = of_batch[1] == 0
        self.start, self.length = np.where(self.fallback, (start, length), of_batch)
        self.start[inputs], self.length[inputs] = self._first, cells

    def _stretches(self, group: np.ndarray, inputs: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the input cells of each run's group begin in their sequence, and how many they are, [n_runs]."""
        start = np.full(group.max() + 1, np.iinfo(np.int64).max)
        length = np.zeros_like(start)
        np.minimum.at(start, group[inputs], self._first)
        np.add.at(length, group[inputs], cells)
        return start[group], length[group]

    def rows(self, sets: np.ndarray, set_size: int) -> np.ndarray:
        """Draw as many control cells for each set of a `SetSampler`, [..., B], as it has cells; its key decides which.

        Return store rows, int64 [..., B, S]: as many slices as the set has, in the pool from a random cell on, wrapping
        at its end, with random gaps between them, so cells repeat only where the pool is smaller than the set; -1
        beyond the set's length. A set of input cells shares none with its own where its run has at least twice as many
        cells as the set.
        """
        run, length, starts = sets["run"], self.length[sets["run"]], sets["starts"]
        # A set of input cells lies in its own pool: what it leaves of it is a pool too.
        apart = self._in_pool[run] & (length >= 2 * sets["length"])
        left = np.where(apart, length - sets["length"], length)
        first = (mix(sets["key"]) % left.astype(np.uint64)).astype(np.int64)
        offset, _ = slices(set_size, starts.shape[-1])
        rows = first[..., None] + offset + self._gaps(sets["key"], left - sets["length"], starts.shape[-1])
        rows = spread(rows, set_size) % left[..., None]
        if apart.any():
            rows[apart] = _beside(rows[apart], starts[apart], sets["length"][apart], set_size, length[apart])
        rows += self.start[run][..., None]
        rows += self._to_row[np.searchsorted(self._first, rows, side="right") - 1]
        return np.where(np.arange(set_size) < sets["length"][..., None], rows, -1)

    @staticmethod
    def _gaps(key: np.ndarray, room: np.ndarray, blocks: int) -> np.ndarray:
        """Return how far the slices of a set are moved on, [..., K]: ascending from 0, at most `room`."""
        room, number = np.maximum(room, 0)[..., None], np.arange(blocks)
        draw = mix(key[..., None] ^ (number << 32)) % (room + 1).astype(np.uint64)
        return np.where(number == 0, 0, (room * number + draw.astype(np.int64)) // blocks)


def _beside(place: np.ndarray, starts: np.ndarray, cells: np.ndarray, set_size: int, length: np.ndarray) -> np.ndarray:
    """Return the places in a run of places, [n, S], among those of its cells that a set leaves out.

    Seen from the set's first slice on, its slices follow each other without wrapping.
    """
    offset, full = slices(set_size, starts.shape[1])
    before = (starts - starts[:, :1]) % length[:, None] - np.minimum(cells[:, None], offset)
    taken = np.clip(cells[:, None] - offset, 0, full)
    moved = sum((place >= before[:, k, None]) * taken[:, k, None] for k in range(starts.shape[1]))
    return (starts[:, :1] + place + moved) % length[:, None]
