"""Which control cells stand beside a set: those of its (context, batch), else those of its context.

A set may be one of control cells itself. Its pool is then the run that its own cells come from.
"""

from typing import TYPE_CHECKING

import numpy as np

from bionemo.cellsets.errors import InputError
from bionemo.cellsets.sampler import mix

if TYPE_CHECKING:
    from bionemo.cellsets.store import CellStore


class ControlPools:
    """The pool of control cells of every run.

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
        self.start = np.zeros(len(runs), dtype=np.int64)
        self.length = np.zeros(len(runs), dtype=np.int64)
        self.fallback = np.ones(len(runs), dtype=bool)
        by_batch = {(int(runs["context"][i]), int(runs["batch"][i])): i for i in controls}
        for context in np.unique(runs["context"]):
            members = np.flatnonzero(runs["context"] == context)
            pools = controls[runs["context"][controls] == context]
            if len(pools) == 0:
                raise InputError(
                    f"The context '{store.contexts[context]}' of {store.path} has no control cells "
                    f"('{store.control}'): prepare the store with them"
                )
            self.start[members] = runs["start"][pools[0]]
            self.length[members] = runs["length"][pools].sum()
            for member in members:
                own = by_batch.get((int(context), int(runs["batch"][member])))
                if own is not None:
                    self.start[member], self.length[member] = runs["start"][own], runs["length"][own]
                    self.fallback[member] = False

    def rows(self, sets: np.ndarray, set_size: int) -> np.ndarray:
        """Draw as many control cells for each set as the set has cells.

        Parameters
        ----------
        sets : structured array [B]
            From `SetSampler.step`; `key` decides the draw.
        set_size : int
            S.

        Returns
        -------
        int64 array [B, S]
            Store rows: consecutive from a random cell of the pool, wrapping at its end, so cells repeat only where the
            pool is smaller than the set; -1 beyond the set's length. A set of control cells shares none with its own
            where its run has at least twice as many cells as the set.
        """
        start, length = self.start[sets["run"]], self.length[sets["run"]]
        # A set of control cells lies in its own pool: the room is what both windows together leave of it.
        room = length - 2 * sets["length"]
        apart = self._is_control[sets["run"]] & (room >= 0)
        choice = np.where(apart, room + 1, length).astype(np.uint64)
        first = (mix(sets["key"]) % choice).astype(np.int64)
        first += np.where(apart, sets["start"] + sets["length"], 0)
        place = np.arange(set_size)
        rows = start[:, None] + (first[:, None] + place) % length[:, None]
        return np.where(place < sets["length"][:, None], rows, -1)
