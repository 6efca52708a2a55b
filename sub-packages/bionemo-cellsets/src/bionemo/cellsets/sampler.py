"""Which cells form which set: a pure function of (seed, epoch, position among the epoch's sets).

An epoch is a list of `n_sets` sets, permuted; consecutive ones form a global batch, of which every rank takes its
contiguous share. One process with batch 2b therefore sees what two processes with batch b see, and an epoch broken off
after any number of sets goes on, with any number of ranks, without a set repeated or left out. The plan of an epoch
costs memory per set, nothing per cell.

What an epoch covers, by `weighting`:

``"cells"``
    Every eligible run is cut into sets of S cells, beginning at a random cell and wrapping at the run's end. Each of
    its cells lies in exactly one set, and only one set of a run may be short.
``"conditions"``, ``"sqrt"``
    As many sets, but shared among the eligible runs alike, or as the square roots of their lengths: a run whose share
    of the sets is q has floor(q) or ceil(q) of them, and q on average over epochs. A set has m = min(S, L) cells of its
    run of L cells; the k sets that the run has in an epoch lie end to end from a random cell, wrapping, so each of its
    cells is seen floor(k m / L) or ceil(k m / L) times, and never twice in one set.
"""

from typing import TYPE_CHECKING

import numpy as np

from bionemo.cellsets.errors import InputError

if TYPE_CHECKING:
    from bionemo.cellsets.store import CellStore

WEIGHTINGS = {"cells": 1.0, "sqrt": 0.5, "conditions": 0.0}
"""Power of a run's length that its share of the sets is proportional to."""
SET_DTYPE = np.dtype([("run", "<i8"), ("start", "<i8"), ("length", "<i8"), ("key", "<i8")])


class SetSampler:
    """Sets of an epoch, and which rank has which; by default disjoint sets that cover every eligible cell once.

    Parameters
    ----------
    store : CellStore
        Its run table is used.
    eligible_runs : bool array [n_runs] or integer array
        The runs whose cells are the targets, as a mask or as indices; control runs may be among them.
    set_size : int
        Cells per set, S.
    sets_per_batch : int
        Sets per batch on this rank, B.
    seed : int
        Non-negative.
    rank, world_size : int
        This process among those that share the epoch.
    weighting : {"cells", "conditions", "sqrt"}
        How the sets of an epoch are shared among runs; see the module.

    Attributes
    ----------
    n_sets, n_cells : int
        Sets of an epoch, and eligible cells, over all ranks.
    global_batch : int
        Sets of one batch of all ranks.
    steps_per_epoch : int
        Batches of an epoch, equal on every rank.

    Raises
    ------
    InputError
        If no run is eligible, or a number is out of range.
    """

    def __init__(
        self,
        store: "CellStore",
        eligible_runs: np.ndarray,
        *,
        set_size: int,
        sets_per_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weighting: str = "cells",
    ):
        for name, value, least in (
            ("set_size", set_size, 1),
            ("sets_per_batch", sets_per_batch, 1),
            ("seed", seed, 0),
            ("world_size", world_size, 1),
            ("rank", rank, 0),
        ):
            if value < least:
                raise InputError(f"{name} is {value}: it must be at least {least}")
        if rank >= world_size:
            raise InputError(f"rank is {rank}: it must be less than the world size, {world_size}")
        if weighting not in WEIGHTINGS:
            raise InputError(f"weighting is '{weighting}': choose one of {', '.join(WEIGHTINGS)}")
        self.weighting = weighting
        self.set_size, self.sets_per_batch, self.seed = int(set_size), int(sets_per_batch), int(seed)
        self.rank, self.world_size = int(rank), int(world_size)
        self.eligible_runs = _run_indices(eligible_runs, len(store.runs))
        self._lengths = store.runs["length"][self.eligible_runs].astype(np.int64)
        self._sets_per_run = -(-self._lengths // self.set_size)
        self.n_sets = int(self._sets_per_run.sum())
        self.n_cells = int(self._lengths.sum())
        self.global_batch = self.sets_per_batch * self.world_size
        self.steps_per_epoch = -(-self.n_sets // self.global_batch)
        self._plan: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None

    def step(self, epoch: int, step: int) -> np.ndarray:
        """Return the sets of one batch of this rank.

        Parameters
        ----------
        epoch : int
            Non-negative.
        step : int
            In [0, steps_per_epoch).

        Returns
        -------
        structured array [B]
            As `batch_at`, at position ``step * global_batch``.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"epoch {epoch}, step {step}: an epoch has the steps 0 to {self.steps_per_epoch - 1}")
        return self.batch_at(epoch, step * self.global_batch)

    def batch_at(self, epoch: int, position: int) -> np.ndarray:
        """Return this rank's sets of the global batch that begins at a position among the epoch's sets.

        Parameters
        ----------
        epoch : int
            Non-negative.
        position : int
            In [0, n_sets).

        Returns
        -------
        structured array [B]
            `run` (row of the run table), `start` (offset of the first cell in the run; the set wraps at the run's end),
            `length` (cells, at most S), `key` (non-negative; a function of seed, epoch and the set's place among all
            sets of the epoch). A set that pads the last batch has length 0 and run -1.
        """
        if epoch < 0 or not 0 <= position < self.n_sets:
            raise IndexError(f"epoch {epoch}, position {position}: an epoch has the sets 0 to {self.n_sets - 1}")
        order, phases, first_set = self._epoch_plan(epoch)
        first = position + self.rank * self.sets_per_batch
        positions = np.arange(first, first + self.sets_per_batch)
        sets = np.zeros(self.sets_per_batch, dtype=SET_DTYPE)
        sets["run"] = -1
        sets["key"] = _keys(self.seed, epoch, positions)
        filled = positions < self.n_sets
        ordinal = order[positions[filled]]
        run = np.searchsorted(first_set, ordinal, side="right") - 1
        lengths, number = self._lengths[run], ordinal - first_set[run]
        full = np.minimum(self.set_size, lengths)
        offset = number * full
        sets["run"][filled] = self.eligible_runs[run]
        sets["start"][filled] = (phases[run] + offset) % lengths
        sets["length"][filled] = np.minimum(full, lengths - offset) if self.weighting == "cells" else full
        return sets

    def _epoch_plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the order of the sets, the first cell of each run, and the number of each run's first set."""
        plan = self._plan
        if plan is None or plan[0] != epoch:
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch))))
            phases = generator.integers(0, self._lengths)
            order = generator.permutation(self.n_sets)
            per_run = self._sets_per_run if self.weighting == "cells" else self._shared_out(generator.random())
            # searchsorted takes the last of several runs that begin at one number: those before it have no set.
            plan = self._plan = (epoch, order, phases, np.cumsum(per_run) - per_run)
        return plan[1], plan[2], plan[3]

    def _shared_out(self, offset: float) -> np.ndarray:
        """Return the sets of each run by systematic sampling, from an offset in [0, 1)."""
        weights = self._lengths ** WEIGHTINGS[self.weighting]
        shares = np.cumsum(weights) * (self.n_sets / weights.sum())
        shares[-1] = self.n_sets
        # Rounding may put a share a hair above the last.
        ends = np.minimum(np.floor(shares + offset), self.n_sets).astype(np.int64)
        return np.diff(ends, prepend=0)


def set_rows(runs: np.ndarray, sets: np.ndarray, set_size: int) -> np.ndarray:
    """Return the store rows of sets.

    Parameters
    ----------
    runs : structured array
        The store's run table.
    sets : structured array [B]
        From `SetSampler.step`.
    set_size : int
        S.

    Returns
    -------
    int64 array [B, S]
        -1 beyond a set's length.
    """
    run = runs[sets["run"]]  # run -1 of a padding set picks any run: its length masks it
    place = np.arange(set_size)
    rows = run["start"][:, None] + (sets["start"][:, None] + place) % run["length"][:, None]
    return np.where(place < sets["length"][:, None], rows, -1)


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values; the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    values = values.astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _keys(seed: int, epoch: int, positions: np.ndarray) -> np.ndarray:
    base = np.random.SeedSequence((seed, epoch, 1)).generate_state(1, np.uint64)
    state = base + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return (mix(state) >> np.uint64(1)).astype(np.int64)


def _run_indices(eligible_runs: np.ndarray, n_runs: int) -> np.ndarray:
    eligible = np.asarray(eligible_runs)
    if eligible.dtype == bool:
        if eligible.shape != (n_runs,):
            raise InputError(f"The mask of eligible runs has shape {eligible.shape}: the store has {n_runs} runs")
        eligible = np.flatnonzero(eligible)
    indices = np.unique(eligible.astype(np.int64))
    if len(indices) == 0:
        raise InputError("No run is eligible: the split leaves this part without cells")
    if len(indices) != eligible.size or indices[0] < 0 or indices[-1] >= n_runs:
        raise InputError(f"Eligible runs must be distinct and lie in [0, {n_runs}), not {indices[0]} to {indices[-1]}")
    return indices
