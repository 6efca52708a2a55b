"""Show a person who watches a run its loss, cells per second, share of time waiting for data, and time left."""

import resource
import time

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from megatron.core import parallel_state
from nemo.lightning.pytorch.callbacks import MegatronProgressBar

from bionemo.scale.config.compute import Precision
from bionemo.scale.model.flops import peak_flops, training_flops
from bionemo.scale.training.data_module import CellSetsDataModule
from bionemo.scale.training.module import ScaleModule


class Throughput(pl.Callback):
    """A `Throughput` logs the loss terms and what the steps since the last log cost.

    - ``throughput/cells_per_second`` counts distinct perturbed cells over all ranks.
    - ``throughput/data_wait`` is the part of the time in which this rank waited for data.
    - ``throughput/flops_per_second`` is of one device.
    - ``throughput/mfu`` divides it by the device's dense bf16 peak. It is logged for trainings in bf16 on devices whose
      peak is known.
    """

    def __init__(self, log_every: int):
        self.log_every = log_every
        self.latest: dict[str, float] = {}
        self._since: float | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: ScaleModule, batch, batch_idx: int) -> None:
        """Start the first window after the set-up of the first step."""
        if self._since is None:
            self._open_window(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ScaleModule, outputs, batch, batch_idx: int) -> None:
        """Close the window on a logging step; only there does a number leave the device."""
        if trainer.global_step % self.log_every and trainer.global_step != trainer.max_steps:
            return
        terms = {name: float(value) for name, value in pl_module.terms.items()}
        assert self._since is not None
        seconds = time.perf_counter() - self._since
        cells, waited = self._counts(trainer, pl_module)
        window = torch.tensor([cells - self._cells], dtype=torch.float64, device=pl_module.terms["loss"].device)
        torch.distributed.all_reduce(window, group=parallel_state.get_data_parallel_group(with_context_parallel=False))
        self.latest = {
            **{f"train/{name}": value for name, value in terms.items()},
            "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "throughput/step_seconds": seconds / (trainer.global_step - self._step),
            "throughput/cells_per_second": window.item() / seconds,
            "throughput/data_wait": (waited - self._waited) / seconds,
            **device_use(pl_module, (trainer.global_step - self._step) / seconds),
        }
        if "grad_norm" in trainer.callback_metrics:  # not where nothing is clipped
            self.latest["train/gradient_norm"] = float(trainer.callback_metrics["grad_norm"])
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, step=trainer.global_step)
        self._open_window(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: ScaleModule) -> None:
        """Keep validation out of the training window."""
        if self._since is not None:
            self._open_window(trainer, pl_module)

    def _open_window(self, trainer: pl.Trainer, pl_module: ScaleModule) -> None:
        self._since, self._step = time.perf_counter(), trainer.global_step
        self._cells, self._waited = self._counts(trainer, pl_module)

    @staticmethod
    def _counts(trainer: pl.Trainer, pl_module: ScaleModule) -> tuple[int, float]:
        data: CellSetsDataModule = trainer.datamodule  # type: ignore[attr-defined]
        return pl_module.cells_seen, data.wait_seconds


def device_use(module: ScaleModule, steps_per_second: float) -> dict[str, float]:
    """Return the FLOP/s and the memory of this device at that many optimizer steps per second."""
    compute, training = module.compute, module.training_config
    flops = training_flops(
        module.scale, compute, len(module.vocabulary.genes), training.sets_per_batch, training.cells_per_set
    )
    per_second = flops * training.accumulate / compute.tensor_parallel * steps_per_second
    if not compute.on_gpu:
        peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
        return {"throughput/flops_per_second": per_second, "memory/peak_gib": peak_memory}
    use = {"throughput/flops_per_second": per_second, "memory/peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    peak = peak_flops(torch.cuda.get_device_name())
    if peak is not None and compute.precision is Precision.BF16:
        use["throughput/mfu"] = per_second / peak
    return use


class ProgressBar(MegatronProgressBar):
    """The `ProgressBar` is NeMo's bar of steps and time left, with the numbers of :class:`Throughput`."""

    def __init__(self, throughput: Throughput):
        super().__init__(refresh_rate=throughput.log_every)
        self.throughput = throughput

    def on_train_epoch_start(self, trainer: pl.Trainer, *args) -> None:
        """Name the bar; the endless loader knows no epochs."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description_str("train", refresh=False)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args, **kwargs) -> None:
        """Take the newest numbers before the bar is drawn; NeMo's bar draws first."""
        self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)

    def on_exception(self, *_) -> None:
        """End the line of the bar: a sentence follows."""
        if self._train_progress_bar is not None:
            self.train_progress_bar.close()

    def init_validation_tqdm(self) -> Tqdm:
        """Show no bar for the short validation passes; their loss stands on the training bar."""
        return Tqdm(disable=True)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, int | str | float]:
        """Return the numbers at the end of the bar."""
        latest = self.throughput.latest
        if not latest:
            return {}
        shown: dict[str, int | str | float] = {
            "loss": f"{latest['train/loss']:.4f}",
            "cells/s": f"{latest['throughput/cells_per_second']:,.0f}",
            "data wait": f"{latest['throughput/data_wait']:.1%}",
        }
        if "val_loss" in trainer.callback_metrics:
            shown["val loss"] = f"{float(trainer.callback_metrics['val_loss']):.4f}"
        if "val_pdcorr" in trainer.callback_metrics:
            shown["val PDCorr"] = f"{float(trainer.callback_metrics['val_pdcorr']):.3f}"
        return shown
