"""Write Megatron checkpoints without a GPU, where the writer would start processes and call CUDA."""

import multiprocessing
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.managers import SyncManager
from typing import Any

import torch

from bionemo.scale.ending import die_with_parent


def collect_write_results_here() -> None:
    """Let Megatron's checkpoint writer collect its results in this process; not where it writes in another one.

    megatron/core/dist_checkpointing/strategies/filesystem_async.py:51 starts another Python for them, which takes
    seconds and 300 MB, and stays behind where this one is killed.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    if filesystem_async._results_queue is None:
        filesystem_async._results_queue = queue.Queue()  # type: ignore[assignment]


def collect_write_results_apart() -> None:
    """Let Megatron's writers beside the training hand over their results in a process that ends with this one."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    def results() -> Any:
        if filesystem_async._results_queue is None:
            manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
            manager.start(initializer=die_with_parent)
            filesystem_async._results_queue = manager.Queue()  # type: ignore[assignment]
        return filesystem_async._results_queue

    filesystem_async._get_write_results_queue = results


@contextmanager
def writing_without_cuda() -> Iterator[None]:
    """Make the two calls that Megatron's checkpoint writer makes without asking mean the CPU, while this lasts.

    For writing a checkpoint outside training; with CUDA it changes nothing.
    """
    if torch.cuda.is_available():
        yield
        return
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    results, filesystem_async._results_queue = filesystem_async._results_queue, None
    collect_write_results_here()
    before = torch.cuda.synchronize, torch.cuda.current_device
    torch.cuda.synchronize = lambda *_args, **_kwargs: None
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.cuda.synchronize, torch.cuda.current_device = before
        filesystem_async._results_queue = results
