"""Read batches of sets ahead, in a thread that may have others help it."""

import contextlib
import logging
import queue
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from bionemo.cellsets.loading.batches import Described, SetBatch, describe_sets, read_batch, unstacked
from bionemo.cellsets.loading.csr_batches import CsrBatch, stage_batches
from bionemo.cellsets.loading.memory import Memory
from bionemo.cellsets.sampling.controls import ControlPools
from bionemo.cellsets.sampling.sampler import SetSampler
from bionemo.cellsets.store.cell_store import CellStore
from bionemo.screens.controls import ControlRoles
from bionemo.screens.errors import InputError

_log = logging.getLogger(__name__)
Batch = SetBatch | CsrBatch
PLANNED = 16
"""Batches whose rows are worked out at once."""


class SetLoader(IterableDataset):
    """A `SetLoader` iterates over the batches of a sampler; a (Stateful)DataLoader without workers takes it as data.

    An endless loader goes on where it stands each time it is iterated. A loader with a number of epochs starts over
    each time, as a list does, unless `load_state_dict` was called since. A batch stays as it is for as long as it, or
    a tensor of it, is referred to; its memory is then used again.

    Parameters
    ----------
    store : CellStore
        The cells.
    sampler : SetSampler
        The sets of that store.
    epochs : int, optional
        Epochs of one pass; None is endless.
    prefetch : int
        Batches read ahead, at least 1.
    threads : int
        Threads that fill a batch, at least 1; the numbers do not depend on it.
    staged : bool
        Hand out `CsrBatch` instead of `SetBatch`.
    controls : bool
        Read control sets beside the perturbed ones; without them `control` is [B, 0, G].
    roles : ControlRoles
        Which control cells have which role: control sets are of the role ``input`` alone.
    dtype : {torch.float32, torch.bfloat16}
        Type of the cells of a `SetBatch`; a `CsrBatch` is told when it is made dense.

    Attributes
    ----------
    wait_seconds : float
        Time the consumer has waited for batches so far.

    Raises
    ------
    InputError
        If a number is out of range, or a context has no control cells.
    """

    def __init__(
        self,
        store: CellStore,
        sampler: SetSampler,
        *,
        epochs: int | None = None,
        prefetch: int = 2,
        threads: int = 1,
        staged: bool = False,
        controls: bool = True,
        roles: ControlRoles = ControlRoles(),
        dtype: torch.dtype = torch.float32,
    ):
        for name, value in (("epochs", epochs), ("prefetch", prefetch), ("threads", threads)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        if dtype not in (torch.float32, torch.bfloat16):
            raise InputError(f"dtype is {dtype}: choose torch.float32 or torch.bfloat16")
        if staged and dtype != torch.float32:
            raise InputError("Staged batches hold stored values: give their dtype to densify, or leave staged out")
        self.store, self.sampler, self.epochs, self.prefetch = store, sampler, epochs, prefetch
        self.threads, self.staged, self.dtype = threads, staged, dtype
        self.wait_seconds = 0.0
        self._pools = ControlPools(store, roles) if controls else None
        self._memory = Memory()
        self._epoch = self._sets = 0
        self._goes_on = True
        self._reader: _ReadAhead | None = None
        without = 0 if self._pools is None else int(self._pools.fallback[sampler.eligible_runs].sum())
        if without:
            _log.warning(
                "%s of %s runs of %s have no control cells of their batch to start from: "
                "their control sets are drawn from all batches of the context",
                *(without, len(sampler.eligible_runs), store.path),
            )

    def __len__(self) -> int:
        """Return the batches of a pass from its beginning."""
        if self.epochs is None:
            raise TypeError("an endless loader has no length; sampler.steps_per_epoch is that of an epoch")
        return self.epochs * self.sampler.steps_per_epoch

    def __iter__(self) -> Generator[Any, None, None]:
        if get_worker_info() is not None:
            raise InputError(
                "A SetLoader reads ahead with threads of its own, and every worker process would repeat the epoch: "
                "make the DataLoader with num_workers=0"
            )
        self.close()
        if not self._goes_on:
            self._epoch = self._sets = 0
        self._goes_on = self.epochs is None
        pool = ThreadPoolExecutor(self.threads, "cellsets-kernel") if self.threads > 1 else None
        reader = self._reader = _ReadAhead(self._batches(pool), self.prefetch)
        try:
            while True:
                before = time.perf_counter()
                batch = reader.next()
                self.wait_seconds += time.perf_counter() - before
                if batch is None:
                    return
                # Counted before the batch is handed over: a state taken while it is in use says that it was seen.
                self._epoch, self._sets = self._after(self._epoch, self._sets)
                yield batch
        finally:
            reader.close()
            if pool is not None:
                pool.shutdown()

    def _after(self, epoch: int, sets: int) -> tuple[int, int]:
        sets += self.sampler.global_batch
        return (epoch, sets) if sets < self.sampler.n_sets else (epoch + 1, 0)

    def _batches(self, pool: Executor | None) -> Iterator[Batch]:
        # Holds no reference to the loader: the thread that draws from it must not keep an abandoned loader alive.
        store, memory, dtype = self.store, self._memory, self.dtype
        described = _described(store, self.sampler, self._pools, self._epoch, self._sets, self.epochs)
        if self.staged:
            return (batch for some in described for batch in stage_batches(store, some, pool=pool))
        batches = (one for some in described for one in unstacked(some))
        return (read_batch(store, one, memory=memory, pool=pool, dtype=dtype) for one in batches)

    def close(self) -> None:
        """End the reading thread, if one runs; iterators handed out before end too."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the next batch: `epoch`, `sets` of it that all ranks have handed out, and of which sets.

        What follows `sets` says which epochs the place is one of: `SetSampler.identity`.
        """
        return {"epoch": self._epoch, "sets": self._sets, **self.sampler.identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place; the next iteration begins there.

        The state of any rank, which `state_dict` returned, serves every rank, also where there are more or fewer of
        them than before, or other batch sizes: the rest of the epoch is handed out without a set repeated or left out.
        An InputError says that it belongs to other sets, or that its place is none of the epoch's.
        """
        for name, value in {"epoch": None, "sets": None, **self.sampler.identity}.items():
            if name not in state:
                raise InputError(f"The loader's state has no '{name}': give what state_dict returned")
            if value is not None and state[name] != value:
                raise InputError(
                    f"The loader's state has {name} {state[name]}, not {value}: "
                    "resume with the same data, split, seed and settings of the sets"
                )
        self._go_to(int(state["epoch"]), int(state["sets"]))

    def start_at(self, epoch: int, step: int) -> None:
        """Go to a step of an epoch, in batches of the present size; the next iteration begins there."""
        self._go_to(epoch, step * self.sampler.global_batch)

    def _go_to(self, epoch: int, sets: int) -> None:
        if epoch < 0 or not 0 <= sets < self.sampler.n_sets:
            raise InputError(
                f"The loader is sent to epoch {epoch}, set {sets}, where an epoch has {self.sampler.n_sets} sets: "
                "resume with the same data, split and set size"
            )
        self.close()
        self._epoch, self._sets, self._goes_on = epoch, sets, True


def _described(
    store: CellStore, sampler: SetSampler, pools: ControlPools | None, epoch: int, position: int, epochs: int | None
) -> Iterator[Described]:
    """Describe the batches from a place on, some at a time; it may lie off the grid of this batch size."""
    while epochs is None or epoch < epochs:
        sets = sampler.batches_at(epoch, position, PLANNED)
        yield describe_sets(store, pools, sets, sampler.set_size)
        position += len(sets) * sampler.global_batch
        if position >= sampler.n_sets:
            epoch, position = epoch + 1, 0


class _ReadAhead:
    """A `_ReadAhead` is a thread that draws batches and keeps at most `depth` of them."""

    def __init__(self, batches: Iterator[Batch], depth: int):
        self._results: queue.SimpleQueue = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stop = threading.Event()
        # The thread must not hold this object, or an abandoned iterator would never be collected.
        arguments = (batches, self._results, self._room, self._stop)
        self._thread = threading.Thread(target=_read_ahead, args=arguments, name="cellsets-reader", daemon=True)
        self._thread.start()
        # Also where the iterator is still there when the interpreter ends, and nothing else of it can be relied on.
        self.close = weakref.finalize(self, _end, self._stop, self._results, self._room, self._thread)

    def next(self) -> Batch | None:
        """Return the next batch, or None at the end or after `close`; raise what reading raised."""
        if self._stop.is_set():
            return None
        result = self._results.get()
        self._room.release()
        if isinstance(result, BaseException):
            self.close()
            raise result
        if result is None:
            self._results.put(None)  # for who asks again
        return result


def _end(
    stop: threading.Event, results: queue.SimpleQueue, room: threading.Semaphore, thread: threading.Thread
) -> None:
    stop.set()
    room.release()  # for a thread that waits for room
    thread.join()
    with contextlib.suppress(queue.Empty):
        while True:
            results.get_nowait()
    results.put(None)  # for a consumer that waits for a batch


def _read_ahead(
    batches: Iterator[Batch], results: queue.SimpleQueue, room: threading.Semaphore, stop: threading.Event
) -> None:
    while True:
        room.acquire()
        if stop.is_set():
            return
        try:
            batch = next(batches, None)
        except BaseException as error:
            results.put(error)
            return
        results.put(batch)
        if batch is None:
            return
        del batch  # its memory is to be used again, so nothing but the queue may refer to it
