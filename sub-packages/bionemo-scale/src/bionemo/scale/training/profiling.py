"""Where the time of a training step goes: a trace, a table of the operations that take longest, ranges for nsys."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.profiler import ProfilerActivity, profile, record_function

from bionemo.scale.training.module import ScaleModule

WARM_UP = 3
"""Steps before the profile begins."""


class Profile(pl.Callback):
    """Writes ``trace.json`` (Perfetto, chrome://tracing) and ``table.txt`` of some steps of rank 0.

    Every module is a range: in the trace, and in NVTX on a GPU, where ``nsys profile -t cuda,nvtx`` shows it.
    """

    def __init__(self, folder: Path, steps: int):
        self.folder, self.steps = folder, steps
        self._profile: profile | None = None
        self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: ScaleModule) -> None:
        """Name the modules."""
        assert pl_module.module is not None
        for name, part in pl_module.module.named_modules():
            if name:
                _as_range(part, name)

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


def _as_range(part: torch.nn.Module, name: str) -> None:
    """Open a range before a module's forward and close it after."""
    opened: list[record_function] = []
    nvtx = torch.cuda.nvtx if torch.cuda.is_available() else None

    def before(*_) -> None:
        opened.append(record_function(name))
        opened[-1].__enter__()
        if nvtx is not None:
            nvtx.range_push(name)

    def after(*_) -> None:
        if nvtx is not None:
            nvtx.range_pop()
        opened.pop().__exit__(None, None, None)

    part.register_forward_pre_hook(before)
    part.register_forward_hook(after, always_call=True)
