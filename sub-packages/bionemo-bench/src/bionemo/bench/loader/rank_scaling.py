"""How much more several ranks read than one, beside how much more memory they can write.

Ranks share memory and caches, so what several of them reach together is bounded by what the machine lets them write.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

_BUFFER_BYTES = 2**26
_barrier: Any = None  # of the processes that measure together; set in each of them


@dataclass(frozen=True, kw_only=True)
class RankScaling:
    """What one rank reaches and what several reach together, all in units a second of wall time.

    Attributes
    ----------
    ranks, cores : int
        Processes that were run at once, and cores that they could use.
    cells_alone, cells_together : float
        Distinct target cells a second of one rank, and of all ranks together.
    memset_alone, memset_together : float
        Bytes a second that one process, and all together, set to zero in buffers of 64 MB.
    """

    ranks: int
    cores: int
    cells_alone: float
    cells_together: float
    memset_alone: float
    memset_together: float

    @property
    def speedup(self) -> float:
        """Times the cells of one rank."""
        return self.cells_together / self.cells_alone

    @property
    def memset_speedup(self) -> float:
        """Times the bytes of one process: what the memory allows."""
        return self.memset_together / self.memset_alone

    def __str__(self) -> str:
        return (
            f"{self.ranks} ranks on {self.cores} cores: {self.speedup:.2f}x the cells of one "
            f"({self.cells_together / 1e3:,.0f}k/s, {self.cells_alone / 1e3:,.0f}k/s); "
            f"memset {self.memset_speedup:.2f}x ({self.memset_together / 1e9:.1f} GB/s, {self.memset_alone / 1e9:.1f})"
        )


def measure_rank_scaling(
    store: str | Path,
    *,
    ranks: int = 2,
    seconds: float = 3.0,
    set_size: int = 64,
    sets_per_batch: int = 16,
    **reading: Any,
) -> RankScaling:
    """Read with one rank, then with several at once; set memory with one process, then with several.

    Parameters
    ----------
    store : path
        Of a store.
    ranks : int
        Processes, each a rank of its own on the same store.
    seconds : float
        Of each of the four measurements; a third of it is read before, to fill caches.
    set_size, sets_per_batch : int
        As for `SetSampler`.
    **reading
        As for `SetLoader`.

    Returns
    -------
    RankScaling
        The result means something only where nothing else runs.
    """
    read = partial(_reader, str(store), set_size, sets_per_batch, reading)
    context = multiprocessing.get_context("spawn")  # as training starts its ranks: nothing is inherited
    with ProcessPoolExecutor(ranks, context, _join, (context.Barrier(ranks),)) as processes:
        rates = [
            sum(processes.map(partial(_side_by_side, make_work, active, seconds), range(ranks)))
            for make_work in (read, _memory_setter)
            for active in (1, ranks)
        ]
    return RankScaling(
        ranks=ranks,
        cores=len(os.sched_getaffinity(0)),
        cells_alone=rates[0],
        cells_together=rates[1],
        memset_alone=rates[2],
        memset_together=rates[3],
    )


def _join(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _side_by_side(make_work: Callable[[int, int], Callable[[], int]], active: int, seconds: float, rank: int) -> float:
    """Return what one rank's work adds up to in a second, while the other active ranks do theirs."""
    try:
        work = make_work(rank, active) if rank < active else None
        if work is not None:
            _rate(work, seconds / 3)
    except BaseException:
        _barrier.abort()  # the others would wait for this one
        raise
    # Nobody begins before all are here; so no process takes the work of two ranks either.
    _barrier.wait(timeout=300)
    rate = 0.0 if work is None else _rate(work, seconds)
    _barrier.wait(timeout=300)
    return rate


def _rate(work: Callable[[], int], seconds: float) -> float:
    done, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + seconds:
        done += work()
    return done / (time.perf_counter() - begun)


def _reader(
    store: str, set_size: int, sets_per_batch: int, reading: dict[str, Any], rank: int, ranks: int
) -> Callable[[], int]:
    import torch

    from bionemo.cellsets import CellStore, SetLoader, SetSampler

    torch.set_num_threads(1)
    opened = CellStore.open(store)
    sampler = SetSampler(
        opened,
        ~opened.is_control,
        set_size=set_size,
        sets_per_batch=sets_per_batch,
        seed=0,
        rank=rank,
        world_size=ranks,
    )
    batches = iter(SetLoader(opened, sampler, **reading))
    return lambda: int(next(batches).mask.sum())


def _memory_setter(rank: int, ranks: int) -> Callable[[], int]:
    buffer = np.ones(_BUFFER_BYTES, dtype=np.uint8)

    def work() -> int:
        buffer.fill(0)
        return buffer.nbytes

    return work
