"""Batches of sets, read ahead by one thread."""

import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from bionemo.cellsets.batch import SetBatch, read_batch
from bionemo.cellsets.controls import ControlPools
from bionemo.cellsets.errors import InputError

if TYPE_CHECKING:
    from bionemo.cellsets.sampler import SetSampler
    from bionemo.cellsets.store import CellStore


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

    Attributes
    ----------
    wait_seconds : float
        Time the consumer has waited for batches so far.

    Warns
    -----
    UserWarning
        If eligible runs have no control cells of their batch, and take those of their context.
    """

    def __init__(self, store: "CellStore", sampler: "SetSampler", *, epochs: int | None = None, prefetch: int = 2):
        if prefetch < 1 or (epochs is not None and epochs < 1):
            raise InputError(f"prefetch is {prefetch}, epochs is {epochs}: both must be at least 1")
        self.store, self.sampler, self.epochs, self.prefetch = store, sampler, epochs, prefetch
        self.wait_seconds = 0.0
        self._pools = ControlPools(store)
        self._epoch = self._step = 0
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

    def __iter__(self) -> Iterator[SetBatch]:
        self.close()
        if not self._goes_on:
            self._epoch = self._step = 0
        self._goes_on = self.epochs is None
        reader = self._reader = _ReadAhead(self._reading(), self.prefetch)
        try:
            while True:
                before = time.perf_counter()
                batch = reader.next()
                self.wait_seconds += time.perf_counter() - before
                if batch is None:
                    return
                # Counted before the batch is handed over: a state taken while it is in use says that it was seen.
                self._step += 1
                if self._step == self.sampler.steps_per_epoch:
                    self._epoch, self._step = self._epoch + 1, 0
                yield batch
        finally:
            reader.close()

    def _reading(self) -> Callable[[int], SetBatch | None]:
        # Holds no reference to the loader: the thread that calls it must not keep an abandoned loader alive.
        store, sampler, pools, epochs = self.store, self.sampler, self._pools, self.epochs
        first_epoch, first_step = self._epoch, self._step

        def read(ahead: int) -> SetBatch | None:
            epochs_on, step = divmod(first_step + ahead, sampler.steps_per_epoch)
            epoch = first_epoch + epochs_on
            if epochs is not None and epoch >= epochs:
                return None
            return read_batch(store, pools, sampler.step(epoch, step), sampler.set_size)

        return read

    def close(self) -> None:
        """End the reading thread, if one runs; iterators handed out before end too."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def state_dict(self) -> dict[str, int]:
        """Return the place of the next batch to hand out: `epoch`, `step`, and the sampler's `seed`."""
        return {"epoch": self._epoch, "step": self._step, "seed": self.sampler.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a place; the next iteration begins there.

        Parameters
        ----------
        state : dict
            From `state_dict`.

        Raises
        ------
        InputError
            If the state belongs to another seed, or its step is none of the epoch's.
        """
        epoch, step = int(state["epoch"]), int(state["step"])
        if state["seed"] != self.sampler.seed:
            raise InputError(
                f"The loader's state has seed {state['seed']}, not {self.sampler.seed}: use that seed to resume"
            )
        if epoch < 0 or not 0 <= step < self.sampler.steps_per_epoch:
            raise InputError(
                f"The loader's state is at epoch {epoch}, step {step}, where an epoch has "
                f"{self.sampler.steps_per_epoch} steps: resume with the same data, split, set size, batch and processes"
            )
        self.close()
        self._epoch, self._step, self._goes_on = epoch, step, True


class _ReadAhead:
    """A thread that calls `read(0)`, `read(1)`, ... and keeps at most `depth` results until one is None."""

    def __init__(self, read: Callable[[int], SetBatch | None], depth: int):
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        # The thread must not hold this object, or an abandoned iterator would never be collected.
        self._thread = threading.Thread(
            target=_read_ahead, args=(read, self._queue, self._stop), name="cellsets-reader", daemon=True
        )
        self._thread.start()

    def next(self) -> SetBatch | None:
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


def _read_ahead(read: Callable[[int], SetBatch | None], results: queue.Queue, stop: threading.Event) -> None:
    result: SetBatch | BaseException | None
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
