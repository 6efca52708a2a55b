"""Show where the time of a training step goes: a trace, a table of the longest operations, ranges for nsys."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.profiler import ProfilerActivity, profile, record_function

from bionemo.scale.training.module import ScaleModule

WARM_UP = 3
"""Steps before the profile begins."""


class Profile(pl.Callback):
    """A `Profile` writes ``trace.json`` (Perfetto, chrome://tracing) and ``table.txt`` of some steps of rank 0.

    Ranges: the wait for data (``data``), every module's forward pass by the module's name, and what Megatron measures
    by name, as ``forward-compute``, ``backward-compute`` and ``optimizer-inner-step``. They are in the trace, and in
    NVTX on a GPU, where ``nsys profile -t cuda,nvtx`` shows them.
    """

    def __init__(self, folder: Path, steps: int):
        self.folder, self.steps = folder, steps
        self._profile: profile | None = None
        self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: ScaleModule) -> None:
        """Put the ranges into the step."""
        assert pl_module.module is not None
        for name, part in pl_module.module.named_modules():
            if name:
                _as_range(part, name)
        data_step, wait = pl_module.data_step, Range("data")

        def timed_data_step(batches):
            wait.start()
            try:
                return data_step(batches)
            finally:
                wait.stop()

        pl_module.data_step = timed_data_step  # type: ignore[method-assign]
        pl_module.config.timers = Ranges()
        for optimizer in trainer.optimizers:
            outer: Any = optimizer.mcore_optimizer  # type: ignore[attr-defined]
            for part in (outer, *getattr(outer, "chained_optimizers", ())):
                part.config.timers = Ranges()

    def on_train_batch_start(self, *_) -> None:
        """Begin after the warm-up."""
        if self._done == WARM_UP and rank_zero_only.rank == 0:
            on_gpu = torch.cuda.is_available()
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
            self._profile = profile(activities=kinds, record_shapes=True, with_flops=True)
            self._profile.start()

    def on_train_batch_end(self, *_) -> None:
        """End after the last step to profile."""
        self._done += 1
        if self._done == WARM_UP + self.steps and self._profile is not None:
            self._profile.stop()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._profile.export_chrome_trace(str(self.folder / "trace.json"))
            first = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            table = self._profile.key_averages().table(sort_by=first, row_limit=30, max_name_column_width=60)
            (self.folder / "table.txt").write_text(table)
            self._profile = None


class Range:
    """A `Range` names a span of time in torch's profile and in NVTX; it may be opened again inside itself."""

    def __init__(self, name: str):
        self.name = name
        self._opened: list[record_function] = []

    def start(self, barrier: bool = False) -> None:
        """Open it. ``barrier``, Megatron's wish that all ranks begin together, would change what is measured."""
        self._opened.append(record_function(self.name))
        self._opened[-1].__enter__()
        if (nvtx := _nvtx()) is not None:
            nvtx.range_push(self.name)

    def stop(self) -> None:
        """Close it."""
        if (nvtx := _nvtx()) is not None:
            nvtx.range_pop()
        self._opened.pop().__exit__(None, None, None)


class Ranges:
    """Megatron takes `Ranges` for its timers: ``timers(name, log_level=2).start()``, later ``.stop()``."""

    def __init__(self):
        self._ranges: dict[str, Range] = {}

    def __call__(self, name: str, log_level: int | None = None) -> Range:
        """Answer the range of that name."""
        return self._ranges.setdefault(name, Range(name))


def _nvtx():
    return torch.cuda.nvtx if torch.cuda.is_available() else None


def _as_range(part: torch.nn.Module, name: str) -> None:
    """Open a range before a module's forward and close it after."""
    its = Range(name)
    part.register_forward_pre_hook(lambda *_: its.start())
    part.register_forward_hook(lambda *_: its.stop(), always_call=True)
