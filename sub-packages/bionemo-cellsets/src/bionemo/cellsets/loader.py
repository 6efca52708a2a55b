"""Batches of sets, read ahead by a thread that may have others help it."""

import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bionemo.cellsets.batch import SetBatch, read_batch
from bionemo.cellsets.controls import ControlPools
from bionemo.cellsets.errors import InputError
from bionemo.cellsets.staging import CsrBatch, CsrBuffers, stage_batch

if TYPE_CHECKING:
    from bionemo.cellsets.sampler import SetSampler
    from bionemo.cellsets.store import CellStore

Batch = SetBatch | CsrBatch


class SetLoader:
    """Iterable over the batches of a sampler.

    An endless loader goes on where it stands each time it is iterated. A loader with a number of epochs starts over
    each time, as a list does, unless `load_state_dict` was called since.

    Parameters
    ----------
    store : CellStore
        Where the cells are.
    sampler : SetSampler
        Of that store.
    epochs : int, optional
        Epochs of one pass; None is endless.
    prefetch : int
        Batches read ahead, at least 1.
    threads : int
        Threads that fill a batch, at least 1; the numbers do not depend on it.
    hold : int, optional
        Batches that the consumer keeps at a time. The memory of older ones is used again, so what is still needed of
        them must have been copied; it is page-locked where CUDA is there. None takes fresh memory for every batch.
    staged : bool
        Hand out `CsrBatch` instead of `SetBatch`.

    Attributes
    ----------
    wait_seconds : float
        Time the consumer has waited for batches so far.

    Raises
    ------
    InputError
        If a number is out of range, or a context has no control cells.

    Warns
    -----
    UserWarning
        If eligible runs have no control cells of their batch, and take those of their context.
    """

    def __init__(
        self,
        store: "CellStore",
        sampler: "SetSampler",
        *,
        epochs: int | None = None,
        prefetch: int = 2,
        threads: int = 1,
        hold: int | None = None,
        staged: bool = False,
    ):
        for name, value in (("epochs", epochs), ("prefetch", prefetch), ("threads", threads), ("hold", hold)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        self.store, self.sampler, self.epochs, self.prefetch = store, sampler, epochs, prefetch
        self.threads, self.hold, self.staged = threads, hold, staged
        self.wait_seconds = 0.0
        self._pools = ControlPools(store)
        self._epoch = self._sets = 0
        self._goes_on = True
        self._reader: _ReadAhead | None = None
        without = int(self._pools.fallback[sampler.eligible_runs].sum())
        if without:
            warnings.warn(
                f"{without} of {len(sampler.eligible_runs)} runs of {store.path} have no control cells of their batch: "
                "their control sets are drawn from all batches of the context",
                stacklevel=2,
            )

    def __len__(self) -> int:
        """Return the batches of a pass from its beginning."""
        if self.epochs is None:
            raise TypeError("an endless loader has no length; sampler.steps_per_epoch is that of an epoch")
        return self.epochs * self.sampler.steps_per_epoch

    def __iter__(self) -> Iterator[Any]:
        self.close()
        if not self._goes_on:
            self._epoch = self._sets = 0
        self._goes_on = self.epochs is None
        pool = ThreadPoolExecutor(self.threads, "cellsets-kernel") if self.threads > 1 else None
        reader = self._reader = _ReadAhead(self._reading(pool), self.prefetch)
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

    def _reading(self, pool: Executor | None) -> Callable[[int], Batch | None]:
        # Holds no reference to the loader: the thread that calls it must not keep an abandoned loader alive.
        store, sampler, pools, epochs, staged = self.store, self.sampler, self._pools, self.epochs, self.staged
        buffers = self._buffers()
        first_epoch, first_sets = self._epoch, self._sets
        # Batches left of an epoch that was entered in the middle, perhaps off the grid of this batch size.
        left = -(-(sampler.n_sets - first_sets) // sampler.global_batch)

        def read(ahead: int) -> Batch | None:
            epoch, position = first_epoch, first_sets + ahead * sampler.global_batch
            if ahead >= left:
                epochs_on, step = divmod(ahead - left, sampler.steps_per_epoch)
                epoch, position = first_epoch + 1 + epochs_on, step * sampler.global_batch
            if epochs is not None and epoch >= epochs:
                return None
            sets, buffer = sampler.batch_at(epoch, position), buffers[ahead % len(buffers)]
            if staged:
                return stage_batch(store, pools, sets, sampler.set_size, buffer, pool)
            return read_batch(store, pools, sets, sampler.set_size, buffer, pool)

        return read

    def _buffers(self) -> list[Any]:
        """Return what the batches are written into in turn: those held, those read ahead, and the one in the making."""
        if self.hold is None:
            return [None]
        count = self.hold + self.prefetch + 1
        if self.staged:
            return [(CsrBuffers(), CsrBuffers()) for _ in range(count)]
        shape = (self.sampler.sets_per_batch, self.sampler.set_size, self.store.n_genes)
        pin = torch.cuda.is_available()
        return [tuple(torch.empty(shape, pin_memory=pin) for _ in range(2)) for _ in range(count)]

    def close(self) -> None:
        """End the reading thread, if one runs; iterators handed out before end too."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def state_dict(self) -> dict[str, int]:
        """Return the place of the next batch: `epoch`, `sets` of it that all ranks have handed out, and `seed`."""
        return {"epoch": self._epoch, "sets": self._sets, "seed": self.sampler.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a place; the next iteration begins there.

        The state of any rank serves every rank, also where there are more or fewer of them than before, or other batch
        sizes: the rest of the epoch is handed out without a set repeated or left out.

        Parameters
        ----------
        state : dict
            From `state_dict`; `step`, a number of batches of the present size, may stand for `sets`.

        Raises
        ------
        InputError
            If the state belongs to another seed, or its place is none of the epoch's.
        """
        sets = state["sets"] if "sets" in state else state["step"] * self.sampler.global_batch
        epoch, sets = int(state["epoch"]), int(sets)
        if state["seed"] != self.sampler.seed:
            raise InputError(
                f"The loader's state has seed {state['seed']}, not {self.sampler.seed}: use that seed to resume"
            )
        if epoch < 0 or not 0 <= sets < self.sampler.n_sets:
            raise InputError(
                f"The loader's state is at epoch {epoch}, set {sets}, where an epoch has {self.sampler.n_sets} sets: "
                "resume with the same data, split and set size"
            )
        self.close()
        self._epoch, self._sets, self._goes_on = epoch, sets, True


class _ReadAhead:
    """A thread that calls `read(0)`, `read(1)`, ... and keeps at most `depth` results until one is None."""

    def __init__(self, read: Callable[[int], Batch | None], depth: int):
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        # The thread must not hold this object, or an abandoned iterator would never be collected.
        self._thread = threading.Thread(
            target=_read_ahead, args=(read, self._queue, self._stop), name="cellsets-reader", daemon=True
        )
        self._thread.start()

    def next(self) -> Batch | None:
        """Return the next result, or None at the end or after `close`; raise what `read` raised."""
        while not self._stop.is_set():
            try:
                result = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(result, BaseException):
                self.close()
                raise result
            return result
        return None

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        while True:  # a thread that waits for room in the queue must find it
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self._thread.join()


def _read_ahead(read: Callable[[int], Batch | None], results: queue.Queue, stop: threading.Event) -> None:
    result: Batch | BaseException | None
    for ahead in range(np.iinfo(np.int64).max):
        if stop.is_set():
            return
        try:
            result = read(ahead)
        except BaseException as error:
            result = error
        while not stop.is_set():
            try:
                results.put(result, timeout=0.2)
                break
            except queue.Full:
                continue
        if result is None or isinstance(result, BaseException):
            return
