"""Draw the control cells that stand beside a set: those of its (context, batch), else those of its context.

A set may be one of control cells itself. Its pool is then the run that its own cells come from.
"""

from typing import TYPE_CHECKING

import numpy as np

from bionemo.cellsets.sampling.set_slices import slices, spread
from bionemo.cellsets.store.hashing import mix
from bionemo.screens.errors import InputError

if TYPE_CHECKING:
    from bionemo.cellsets.store.cell_store import CellStore


class ControlPools:
    """A `ControlPools` has the pool of control cells of every run.

    A pool is one block of store rows: runs are sorted by (context, perturbation, batch), so the control runs of a
    context lie side by side. Control cells are inputs, so a split does not limit them.

    Parameters
    ----------
    store : CellStore
        Its run table is used.

    Attributes
    ----------
    start, length : int64 array [n_runs]
        The pool of each run, in store rows.
    fallback : bool array [n_runs]
        Runs whose batch has no control cells; their pool is all control cells of the context.

    Raises
    ------
    InputError
        If a context has no control cells at all.
    """

    def __init__(self, store: "CellStore"):
        runs, controls = store.runs, np.flatnonzero(store.is_control)
        self._is_control = store.is_control
        contexts, first = np.unique(runs["context"][controls], return_index=True)
        without = np.setdiff1d(runs["context"], contexts)
        if len(without):
            raise InputError(
                f"The context '{store.contexts[without[0]]}' of {store.path} has no control cells "
                f"('{store.control}'): prepare the store with them"
            )
        own, of = np.unique(runs[["context", "batch"]], return_inverse=True)
        control_run = np.full(len(own), -1)
        control_run[of.reshape(-1)[controls]] = controls
        control_run = control_run[of.reshape(-1)]
        context = np.searchsorted(contexts, runs["context"])
        self.fallback = control_run < 0
        cells = np.add.reduceat(runs["length"][controls], first)
        self.start = np.where(self.fallback, runs["start"][controls[first]][context], runs["start"][control_run])
        self.length = np.where(self.fallback, cells[context], runs["length"][control_run])

    def rows(self, sets: np.ndarray, set_size: int) -> np.ndarray:
        """Draw as many control cells for each set as the set has cells.

        Parameters
        ----------
        sets : structured array [..., B]
            From `SetSampler`; `key` decides the draw.
        set_size : int
            S.

        Returns
        -------
        int64 array [..., B, S]
            Store rows: as many slices as the set has, in the pool from a random cell on, wrapping at its end, with
            random gaps between them, so cells repeat only where the pool is smaller than the set; -1 beyond the set's
            length. A set of control cells shares none with its own where its run has at least twice as many cells as
            the set.
        """
        run, length, starts = sets["run"], self.length[sets["run"]], sets["starts"]
        # A set of control cells lies in its own pool: what it leaves of it is a pool too.
        apart = self._is_control[run] & (length >= 2 * sets["length"])
        left = np.where(apart, length - sets["length"], length)
        first = (mix(sets["key"]) % left.astype(np.uint64)).astype(np.int64)
        offset, _ = slices(set_size, starts.shape[-1])
        rows = first[..., None] + offset + self._gaps(sets["key"], left - sets["length"], starts.shape[-1])
        rows = spread(rows, set_size) % left[..., None]
        if apart.any():
            rows[apart] = _beside(rows[apart], starts[apart], sets["length"][apart], set_size, length[apart])
        rows += self.start[run][..., None]
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
