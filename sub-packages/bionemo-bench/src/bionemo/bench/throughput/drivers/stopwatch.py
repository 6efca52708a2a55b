"""Time training the same way for every arm, outside of whatever clocks a trainer has of its own.

A driver calls its project's own training function with a `Stopwatch` among the trainer's callbacks and a `TimedLoader`
around its batches. After some steps to warm up, the fit waits inside the callback; each request ``{"do": "window",
"steps": n}`` lets it run n steps further and is answered with what they took; ``{"do": "end"}`` ends the fit.
"""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from driver_protocol import cpu_seconds, memory, next_request, send_answer, serve
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

_REQUEST = "BIONEMO_SCALE_BENCH_REQUEST"
MOST_WARM_UP = 60
"""Steps after which warming up ends even if worker processes have not filled their queue."""


class TimedLoader:
    """A `TimedLoader` hands on the batches of a loader, the time that was waited for them noted, and what each holds.

    The loader's attributes are this object's as well, for a trainer that asks for them. `identify` takes a batch as it
    is handed out and returns the names of its perturbed cells as a list, or their number where no two batches of an
    epoch share one.
    """

    def __init__(self, loader: Any, identify: Callable[[Any], list | int]):
        self._loader, self._identify = loader, identify
        self._batches: Any = None
        self.wait_seconds, self.epochs = 0.0, 0
        self.seen: list[tuple[int, list | int]] = []
        """Epoch and what `identify` said, of each batch."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        self.epochs += 1
        self._batches = iter(self._loader)
        while True:
            before = time.perf_counter()
            batch = next(self._batches, None)
            self.wait_seconds += time.perf_counter() - before
            if batch is None:
                return
            self.seen.append((self.epochs, self._identify(batch)))
            yield batch

    def ready(self) -> int:
        """Return how many batches worker processes have made that were not asked for yet."""
        if not hasattr(self._batches, "_worker_result_queue"):
            return 0
        # Those that came out of order were taken off the queue already.
        stashed = sum(len(task) > 1 for task in list(self._batches._task_info.values()))
        return self._batches._worker_result_queue.qsize() + stashed

    def wanted_ready(self) -> int:
        """Return how many of them there are in the long run, as far as that is known: most of the queue."""
        workers = getattr(self._loader, "num_workers", 0) or 0
        return int(0.8 * workers * (getattr(self._loader, "prefetch_factor", 0) or 0))


def distinct_cells(seen: list[tuple[int, list | int]]) -> int:
    """Return the distinct perturbed cells of some batches, counted anew in each epoch."""
    numbers = sum(cells for _, cells in seen if isinstance(cells, int))
    names = {(epoch, name) for epoch, cells in seen if not isinstance(cells, int) for name in cells}
    return numbers + len(names)


class Stopwatch(pl.Callback):
    """A `Stopwatch` lets a fit run window by window, as it is told on standard input.

    The first window begins after `warm_up` steps at least, when `loader` answers with the fit's `TimedLoader`; then
    `facts` says of the module what belongs to the answer. The operations of the first step are counted.
    """

    def __init__(
        self, loader: Callable[[], TimedLoader], warm_up: int, facts: Callable[[pl.LightningModule], dict[str, Any]]
    ):
        self._loader, self._warm_up, self._facts = loader, warm_up, facts
        self._steps = self._until = 0
        self._window: dict[str, Any] | None = None
        self._step_ends: list[float] = []
        self._began = time.perf_counter()
        self._operations, self._counting = FlopCounterMode(display=False), contextlib.ExitStack()

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin to count the operations of the first step; torch counts attention where it is made of products."""
        if self._steps == 0:
            self._counting.enter_context(sdpa_kernel(SDPBackend.MATH))
            self._counting.enter_context(self._operations)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Note the step's end; at the end of a window answer, and wait for the next request."""
        self._steps += 1
        self._counting.close()
        if self._window is not None:
            self._step_ends.append(time.perf_counter())
            if self._steps < self._until:
                return
            answer = self._close()
        else:
            loader = self._loader()
            filled = loader.ready() >= loader.wanted_ready() or self._steps >= MOST_WARM_UP
            if not from_first_rank(self._steps >= self._warm_up and filled):
                return
            seconds = time.perf_counter() - self._began
            counted = {"step_flops": self._operations.get_total_flops()}
            answer = {"warm_up_steps": self._steps, "warm_up_seconds": seconds, **counted, **self._facts(pl_module)}
        request = None
        if first_rank():
            send_answer(answer)
            request = next_request()
        request = from_first_rank(request)
        if request is None or request["do"] == "end":
            self._window = None
            trainer.should_stop = True
            return
        self._open(request["steps"])

    def _open(self, steps: int) -> None:
        loader = self._loader()
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        self._until, self._step_ends = self._steps + steps, []
        self._window = {
            "first_batch": self._steps,
            "ready": loader.ready(),
            "wait": loader.wait_seconds,
            "cpu": cpu_seconds(),
            "begin": time.perf_counter(),
        }

    def _close(self) -> dict[str, Any]:
        assert self._window is not None
        loader, on_gpu = self._loader(), torch.cuda.is_available()
        if on_gpu:
            torch.cuda.synchronize()
        end, cpu = time.perf_counter(), cpu_seconds()
        begin, window = self._window["begin"], self._window
        ends = [begin, *self._step_ends]
        batches = loader.seen[window["first_batch"] : self._steps]
        return {
            "steps": self._steps - window["first_batch"],
            "wall_seconds": end - begin,
            "cpu_seconds": cpu - window["cpu"],
            "wait_seconds": loader.wait_seconds - window["wait"],
            "step_seconds": [after - before for before, after in itertools.pairwise(ends)],
            "distinct_cells": over_ranks(distinct_cells(batches)),
            "epochs": len({epoch for epoch, _ in batches}),
            "batches_ready": [window["ready"], loader.ready()],
            "device_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
            **memory(),
        }


def serve_training(train: Callable[..., dict[str, Any]]) -> None:
    """Answer requests to train; a process that a trainer has started for another rank does what the first was asked."""
    told = os.environ.get(_REQUEST)
    if told is not None:
        os.dup2(2, 1)  # standard output belongs to the first rank
        train(**json.loads(told))
        return

    def first(**request: Any) -> dict[str, Any]:
        os.environ[_REQUEST] = json.dumps(request)
        return train(**request)

    serve(train=first)


def first_rank() -> bool:
    """Return whether this process is the one that is spoken to."""
    return not dist.is_initialized() or dist.get_rank() == 0


def from_first_rank(value: Any) -> Any:
    """Return what the first rank has said."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def over_ranks(value: int) -> int:
    """Return the sum over all ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    each: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(each, value)
    return sum(each)


def learning(module: torch.nn.Module) -> dict[str, Any]:
    """Return how many weights had a gradient in the last step, and what they are computed with."""
    used = [weight for weight in module.parameters() if weight.requires_grad and has_gradient(weight)]
    return {
        "parameters": sum(weight.numel() for weight in used),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "device": str(used[0].device) if used else "",
        "dtype": str(used[0].dtype).removeprefix("torch.") if used else "",
    }


def has_gradient(weight: torch.nn.Parameter) -> bool:
    """Return whether a step has left a gradient; Megatron keeps it beside the weight."""
    return weight.grad is not None or getattr(weight, "main_grad", None) is not None


def add_callback(module: Any, callback: pl.Callback, **settings: Any) -> None:
    """Let every `Trainer` that `module` builds from now on have one more callback, and these settings.

    The trainer's class is extended while the driver runs; no file of its project is changed.
    """
    original = module.Trainer

    class Timed(original):
        def __init__(self, *arguments: Any, callbacks: Any = None, **given: Any):
            with contextlib.suppress(TypeError):
                callbacks = list(callbacks or ())
            super().__init__(*arguments, callbacks=[*callbacks, callback], **{**given, **settings})

    module.Trainer = Timed
