"""Measure how fast a model trains: a fixed number of steps, the first of them dropped, as JSON."""

import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from megatron.core import parallel_state

from bionemo.cellsets import prepare
from bionemo.scale.config.checking import check_fields
from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import ModelConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.runs.directory import PACKAGES
from bionemo.scale.training.callbacks.progress import device_use
from bionemo.scale.training.fit import train
from bionemo.scale.training.module import ScaleModule
from bionemo.scale.training.setup import open_training
from bionemo.screens.errors import InputError
from bionemo.screens.simulation import simulate

PERCENTILES = (5, 50, 95, 99)


@dataclass(frozen=True, kw_only=True)
class SimulatedScreen:
    """A `SimulatedScreen` gives the sizes of the data that a measurement makes where it is given none."""

    cells: int = 20_000
    genes: int = 2_000
    contexts: int = 4
    perturbations: int = 24

    def __post_init__(self):
        check_fields(self)


def throughput(
    out: str | Path,
    model: ModelConfig,
    compute: ComputeConfig,
    training: TrainingConfig,
    screen: SimulatedScreen,
    steps: int = 50,
    warm_up: int = 10,
    store: str | Path | None = None,
    split: str | Path | None = None,
) -> None:
    """Train ``warm_up`` steps, then ``steps`` that are measured, and write ``throughput.json`` into a new ``out``.

    No checkpoint is written before the last step, and nothing is validated. Store and split are what ``pretrain``
    takes; without them the screen is simulated. An InputError says that the arguments do not fit each other or the
    data, or that ``out`` exists.
    """
    if steps < 1 or warm_up < 1:
        raise InputError(f"steps={steps} and warm_up={warm_up} must be at least 1: the first step sets things up.")
    if (store is None) != (split is None):
        raise InputError("store and split go together: give both, or neither for a simulated screen.")
    folder = Path(out)
    # Another rank may have made the folder by now; only the first rank writes the record of a run.
    earlier = folder if compute.world_size == 1 else folder / "run" / "run.json"
    if earlier.exists() and rank_zero_only.rank == 0:
        raise InputError(f"out={out} exists: name a directory that does not.")
    if store is None or split is None:
        if compute.world_size > 1:
            raise InputError(f"a simulated screen is for one process, not {compute.world_size}: give store and split.")
        store, split = _simulated(screen, folder)
    last = steps + warm_up
    quiet = replace(
        training, max_steps=last, warmup_steps=0, validate_every=last + 1, checkpoint_every=last, log_every=last,
        patience=0, profile_steps=0,
    )  # fmt: skip
    times = StepTimes(warm_up)
    opened = open_training(store, split, model, compute, quiet)
    train(opened, folder / "run", watchers=[times])
    if rank_zero_only.rank == 0:
        report = times.found | {
            "data": {"store": str(store), "fingerprint": opened.store.fingerprint, "genes": opened.store.n_genes},
            "model": asdict(model),
            "compute": asdict(compute),
            "training": asdict(quiet),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
            "threads": None if torch.cuda.is_available() else torch.get_num_threads(),
            "versions": {name: version(name) for name in PACKAGES},
        }
        (folder / "throughput.json").write_text(json.dumps(report, indent=1))


class StepTimes(pl.Callback):
    """`StepTimes` notes wall time, cells and waiting of every step, with the GPU's work of a step inside it."""

    def __init__(self, warm_up: int):
        self.warm_up = warm_up
        self._ends: list[float] = []
        self._cells: list[int] = []
        self._waited: list[float] = []
        self.found: dict[str, Any] = {}
        """The numbers of the steps after the warm-up."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ScaleModule, *_) -> None:
        """Note where the step has ended."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._ends.append(time.perf_counter())
        self._cells.append(pl_module.cells_seen)
        self._waited.append(data.wait_seconds)
        if len(self._ends) == trainer.max_steps:
            self._sum_up(pl_module)

    def _sum_up(self, module: ScaleModule) -> None:
        first = self.warm_up - 1
        seconds = self._ends[-1] - self._ends[first]
        steps = np.diff(self._ends[first:])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        cells = torch.tensor([self._cells[-1] - self._cells[first]], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(cells, group=parallel_state.get_data_parallel_group(with_context_parallel=False))
        use = device_use(module, len(steps) / seconds)
        self.found = {
            "cells_per_second": cells.item() / seconds,
            "distinct_perturbed_cells": int(cells.item()),
            "seconds": seconds,
            "steps": len(steps),
            "warm_up": self.warm_up,
            "steps_per_second": len(steps) / seconds,
            "step_seconds": {f"p{p}": float(np.percentile(steps, p)) for p in PERCENTILES},
            "data_wait": (self._waited[-1] - self._waited[first]) / seconds,
            "flops_per_second": use["throughput/flops_per_second"],
            "mfu": use.get("throughput/mfu"),
            "peak_memory_gib": use["memory/peak_gib"],
        }


def _simulated(screen: SimulatedScreen, folder: Path) -> tuple[str, str]:
    """Make a store, and a split that holds nothing out."""
    folder.mkdir(parents=True)
    simulate(folder / "screen.h5ad", batches=1, **asdict(screen))
    prepare(
        [folder / "screen.h5ad"], folder / "store", perturbation_key="perturbation", control="control",
        context_key="context", batch_key="batch", n_genes=None, progress=False,
    )  # fmt: skip
    (folder / "split.toml").write_text('[training]\nscreen = "train"\n')
    return str(folder / "store"), str(folder / "split.toml")
