"""Run SCALE's own `pretrain`, step by step as the stopwatch is told."""

from pathlib import Path
from typing import Any

import nemo.lightning as nl
from stopwatch import Stopwatch, TimedLoader, add_callback, learning, serve_training

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import ModelConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.model.flops import training_flops
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.training import setup as opening
from bionemo.scale.training.data_module import CellSetsDataModule
from bionemo.scale.training.pretrain import pretrain


class TimedData(CellSetsDataModule):
    """A `TimedData` is the data module of training, its batches timed."""

    timed: TimedLoader

    def train_dataloader(self) -> Any:
        """Return endless batches; the sampler's sets are disjoint, so their cells need only be counted."""
        type(self).timed = TimedLoader(super().train_dataloader(), lambda batch: batch.perturbed_cells)
        return self.timed


def train(
    store: str,
    split: str,
    out: str,
    model: dict[str, Any],
    compute: dict[str, Any],
    training_settings: dict[str, Any],
    warm_up: int,
) -> dict[str, Any]:
    """Train until told to end, and say where the checkpoint is."""
    opening.CellSetsDataModule = TimedData  # type: ignore[misc]
    settings = TrainingConfig(**training_settings, trial=False)  # one training is timed

    def facts(module: Any) -> dict[str, Any]:
        # Torch does not count oneDNN's products, nor what the CPU's attention takes; a test holds the two equal.
        built, genes = module.model, len(module.vocabulary.genes)
        sizes = genes, settings.sets_per_batch, settings.cells_per_set
        return learning(module) | {"step_flops": training_flops(built.scale, built.compute, *sizes)}

    add_callback(nl, Stopwatch(lambda: TimedData.timed, warm_up, facts))
    pretrain(store, split, out, ModelConfig(**model), ComputeConfig(**compute), settings)
    return {"checkpoint": str(RunDirectory(Path(out)).last_checkpoint())}


if __name__ == "__main__":
    serve_training(train)
