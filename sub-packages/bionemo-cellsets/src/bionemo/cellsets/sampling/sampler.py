"""Say which cells form which set: a pure function of (seed, epoch, position among the epoch's sets).

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

With `blocks` K above 1 a set is K slices of its run instead of one, so that cells which lie side by side in the store
meet others every epoch. All cells that the sets of a run take are cut into K stretches, and each stretch into as many
slices as there are sets. Set number j takes slice j of the first stretch, slice j + r_2 of the second, and so on; the
shifts r are drawn anew each epoch. The promises above hold as they stand.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from bionemo.cellsets.sampling.set_slices import slices
from bionemo.cellsets.store.cell_store import CellStore
from bionemo.cellsets.store.hashing import mix
from bionemo.screens.errors import InputError

WEIGHTINGS = {"cells": 1.0, "sqrt": 0.5, "conditions": 0.0}
"""Power of a run's length that its share of the sets is proportional to."""
MAXIMAL_BLOCKS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def set_dtype(blocks: int) -> np.dtype:
    """Return the type of a set; see `SetSampler.batches_at`."""
    return np.dtype([("run", "<i8"), ("length", "<i8"), ("key", "<i8"), ("starts", "<i8", (blocks,))])


class SetSampler:
    """A `SetSampler` cuts an epoch into sets and shares them among ranks; by default each eligible cell is in one set.

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
    blocks : int
        Slices of its run that a set is drawn from, 1 to 8 and at most S.

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
        store: CellStore,
        eligible_runs: np.ndarray,
        *,
        set_size: int,
        sets_per_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weighting: str = "cells",
        blocks: int = 1,
    ):
        for name, value, least in (
            ("set_size", set_size, 1),
            ("sets_per_batch", sets_per_batch, 1),
            ("seed", seed, 0),
            ("world_size", world_size, 1),
            ("rank", rank, 0),
            ("blocks", blocks, 1),
        ):
            if value < least:
                raise InputError(f"{name} is {value}: it must be at least {least}")
        if blocks > min(MAXIMAL_BLOCKS, set_size):
            raise InputError(f"blocks is {blocks}: it must be at most {MAXIMAL_BLOCKS} and at most the set size")
        if rank >= world_size:
            raise InputError(f"rank is {rank}: it must be less than the world size, {world_size}")
        if weighting not in WEIGHTINGS:
            raise InputError(f"weighting is '{weighting}': choose one of {', '.join(WEIGHTINGS)}")
        self.weighting, self.blocks = weighting, int(blocks)
        self.set_size, self.sets_per_batch, self.seed = int(set_size), int(sets_per_batch), int(seed)
        self.rank, self.world_size = int(rank), int(world_size)
        self.eligible_runs = _run_indices(eligible_runs, len(store.runs))
        own = store.runs[self.eligible_runs]
        self._runs_hash = hashlib.sha256(self.eligible_runs.tobytes() + own.tobytes()).hexdigest()[:16]
        self._lengths = store.runs["length"][self.eligible_runs].astype(np.int64)
        self._sets_per_run = -(-self._lengths // self.set_size)
        self.n_sets = int(self._sets_per_run.sum())
        self.n_cells = int(self._lengths.sum())
        self.global_batch = self.sets_per_batch * self.world_size
        self.steps_per_epoch = -(-self.n_sets // self.global_batch)
        self._plan: _EpochPlan | None = None

    @property
    def identity(self) -> dict[str, int | str]:
        """Return what the sets of an epoch depend on, which ranks and batch size do not change.

        `runs` is a hash of the eligible runs, of where they begin and how long they are.
        """
        return {
            "seed": self.seed,
            "set_size": self.set_size,
            "weighting": self.weighting,
            "blocks": self.blocks,
            "runs": self._runs_hash,
        }

    def step(self, epoch: int, step: int) -> np.ndarray:
        """Return the sets of one batch of this rank, as `batches_at` does: a structured array [B].

        The first step of an epoch is 0, the last ``steps_per_epoch - 1``.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"epoch {epoch}, step {step}: an epoch has the steps 0 to {self.steps_per_epoch - 1}")
        return self.batches_at(epoch, step * self.global_batch, 1)[0]

    def batches_at(self, epoch: int, position: int, count: int) -> np.ndarray:
        """Return this rank's sets of global batches in a row; many at once are cheaper by the batch.

        Parameters
        ----------
        epoch : int
            The number of the epoch, from 0.
        position : int
            Where the first batch begins among the epoch's sets, in [0, n_sets).
        count : int
            How many batches are asked for; an epoch may end before.

        Returns
        -------
        structured array [at most count, B]
            `run` (row of the run table), `length` (cells, at most S), `starts` [B, K] (offset in the run of the first
            cell of each slice, see `set_slices`; a slice wraps at the run's end), `key` (non-negative; a function of
            seed, epoch and the set's place among all sets of the epoch). A set that pads the last batch has length 0
            and run -1.
        """
        if epoch < 0 or not 0 <= position < self.n_sets:
            raise IndexError(f"epoch {epoch}, position {position}: an epoch has the sets 0 to {self.n_sets - 1}")
        count = min(count, -(-(self.n_sets - position) // self.global_batch))
        plan = self._epoch_plan(epoch)
        batches = position + self.rank * self.sets_per_batch + self.global_batch * np.arange(count)
        positions = batches[:, None] + np.arange(self.sets_per_batch)
        sets = np.zeros(positions.shape, dtype=set_dtype(self.blocks))
        sets["run"] = -1
        sets["key"] = (_hashed(plan.key, positions) >> np.uint64(1)).astype(np.int64)
        filled = positions < self.n_sets
        ordinal = plan.order[positions[filled]]
        run = np.searchsorted(plan.first_set, ordinal, side="right") - 1
        sets["run"][filled] = self.eligible_runs[run]
        sets["length"][filled], sets["starts"][filled] = self._slices(plan, run, ordinal - plan.first_set[run])
        return sets

    def _slices(self, plan: "_EpochPlan", run: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells of sets, [n], and where in its run each of their slices begins, [n, K].

        The sets of a run are dealt with in rounds, in which they take no cell twice: for the weighting "cells" there is
        one, with the last set maybe short, else each has as many sets as the run's cells suffice for.
        """
        lengths, per_run = self._lengths[run], plan.sets_per_run[run]
        if self.weighting == "cells":
            full, per_round, base = np.full(len(run), self.set_size), per_run, 0
            last = lengths - (per_run - 1) * full
            in_round = per_run
        else:
            full = last = np.minimum(self.set_size, lengths)
            per_round = lengths // full
            before = number // per_round * per_round
            in_round, base, number = np.minimum(per_round, per_run - before), before * full, number - before
        size = np.where(number == in_round - 1, last, full)
        # Stretch k holds slice k of every set of the round; the short set's slices are at the ends of the stretches.
        offset, length = slices(self.set_size, self.blocks)
        stretch = (in_round - 1)[:, None] * np.minimum(full[:, None], offset) + np.minimum(last[:, None], offset)
        place = number[:, None]
        if self.blocks > 1:
            turning = np.maximum(in_round - (last < full), 1)[:, None]
            turn = _hashed(plan.turn, run[:, None] * self.blocks + np.arange(self.blocks))
            turn = np.where(np.arange(self.blocks) == 0, 0, (turn % turning.astype(np.uint64)).astype(np.int64))
            place = np.where(place < turning, (place + turn) % turning, place)
        slice_length = np.clip(full[:, None] - offset, 0, length)
        first = plan.phases[run] + base
        return size, (first[:, None] + stretch + place * slice_length) % lengths[:, None]

    def _epoch_plan(self, epoch: int) -> "_EpochPlan":
        if self._plan is None or self._plan.epoch != epoch:
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch))))
            phases = generator.integers(0, self._lengths)
            order = generator.permutation(self.n_sets)
            per_run = self._sets_per_run if self.weighting == "cells" else self._shared_out(generator.random())
            key, turn = np.random.SeedSequence((self.seed, epoch, 1)).generate_state(2, np.uint64)
            self._plan = _EpochPlan(
                epoch=epoch,
                order=order,
                phases=phases,
                sets_per_run=per_run,
                # searchsorted takes the last of several runs that begin at one number: those before it have no set.
                first_set=np.cumsum(per_run) - per_run,
                key=key,
                turn=turn,
            )
        return self._plan

    def _shared_out(self, offset: float) -> np.ndarray:
        """Return the sets of each run by systematic sampling, from an offset in [0, 1)."""
        weights = self._lengths ** WEIGHTINGS[self.weighting]
        shares = np.cumsum(weights) * (self.n_sets / weights.sum())
        shares[-1] = self.n_sets
        # Rounding may put a share a hair above the last.
        ends = np.minimum(np.floor(shares + offset), self.n_sets).astype(np.int64)
        return np.diff(ends, prepend=0)


@dataclass(frozen=True, kw_only=True)
class _EpochPlan:
    epoch: int
    order: np.ndarray  # of the sets, [n_sets]
    phases: np.ndarray  # first cell of each eligible run
    sets_per_run: np.ndarray
    first_set: np.ndarray  # number of each eligible run's first set
    key: np.uint64  # what the sets' keys are hashed from
    turn: np.uint64  # and the shifts of the stretches against each other


def _hashed(base: np.uint64, numbers: np.ndarray) -> np.ndarray:
    return mix(base + (numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


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
