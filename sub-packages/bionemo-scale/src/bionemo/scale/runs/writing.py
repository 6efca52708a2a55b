"""Write Megatron checkpoints without a GPU, where the writer would start processes and call CUDA."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def collect_write_results_here() -> None:
    """Let Megatron's checkpoint writer collect its results in this process; not where it writes in another one.

    megatron/core/dist_checkpointing/strategies/filesystem_async.py:51 starts another Python for them, which takes
    seconds and 300 MB, and stays behind where this one is killed.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    if filesystem_async._results_queue is None:
        filesystem_async._results_queue = queue.Queue()  # type: ignore[assignment]


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
