"""Run STATE's own `tx train` in its own environment, step by step as the stopwatch is told.

Nothing of STATE is copied or written to its files. What an arm changes is changed while the driver runs: where its
batches come from, whether an open dataset is kept, which blocks its backbone is made of.
"""

# pyright: reportMissingImports=false
# The packages lie in this driver's own environment.
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from stopwatch import Stopwatch, TimedLoader, add_callback, learning, serve_training

_CONTROL = "control"


def train(
    config: list[str],
    out: str,
    warm_up: int,
    precision: str,
    hold: bool,
    store: str | None,
    split: str,
    blocks: dict[str, Any] | None,
    device: str,
) -> dict[str, Any]:
    """Train until told to end, and say where the checkpoint is.

    `config` has overrides of STATE's configuration, and `precision` is Lightning's name. With `hold` the file's dataset
    is kept open instead of looked up for every read. With a store the batches come from it, through our loader, and the
    split file says which cells train; with the sizes of `blocks` SCALE's blocks take the place of the backbone.
    """
    from cell_load.data_modules import PerturbationDataModule
    from state.__main__ import load_hydra_config
    from state._cli import run_tx_train

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("the torch of STATE's environment sees no GPU")
    if hold:
        hold_dataset()
    if blocks is not None:
        use_blocks(blocks)
    timed: list[TimedLoader] = []
    original = PerturbationDataModule.train_dataloader

    def train_dataloader(module: Any, test: bool = False) -> Any:
        if store is not None:
            from store_batches import StoreBatches

            loader: Any = StoreBatches(module, store, split)
            timed.append(TimedLoader(loader, lambda batch: batch["perturbed_cells"]))
        else:
            timed.append(TimedLoader(original(module, test), perturbed))
        return timed[-1]

    PerturbationDataModule.train_dataloader = train_dataloader
    add_callback(pl, Stopwatch(lambda: timed[-1], warm_up, learning), precision=precision)
    run_tx_train(load_hydra_config("tx", [*config, f"output_dir={Path(out).parent}", f"name={Path(out).name}"]))
    return {"checkpoint": "final.ckpt", "run": out}


def perturbed(batch: dict[str, Any]) -> list[str]:
    """Return the names of a batch's perturbed cells, those it repeats as often as it does."""
    labels, names = batch["pert_name"], batch["pert_cell_barcode"]
    return [name for name, label in zip(names, labels, strict=True) if label != _CONTROL]


def hold_dataset() -> None:
    """Let cell-load look its dataset up once a file."""
    from cell_load.dataset import PerturbationDataset

    original = PerturbationDataset._get_obsm_matrix

    def held(dataset: Any, key: str) -> Any:
        kept = dataset.__dict__.setdefault("_held", {})
        file = dataset.h5_file.id.id  # a process of its own opens the file anew
        if (file, key) not in kept:
            kept[file, key] = original(dataset, key)
        return kept[file, key]

    def state_without_it(dataset: Any) -> dict[str, Any]:
        dataset.__dict__.pop("_held", None)  # an open dataset cannot be sent to another process
        return pickled(dataset)

    pickled = PerturbationDataset.__getstate__
    PerturbationDataset._get_obsm_matrix, PerturbationDataset.__getstate__ = held, state_without_it


def use_blocks(sizes: dict[str, Any]) -> None:
    """Put SCALE's blocks, in their form of plain torch, in the place of the backbone."""
    from scale_portable import Stack
    from state.tx.models import state_transition

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = Stack(sizes, sizes["hidden_size"], sizes["num_layers"], conditioned=False)

        def forward(self, inputs_embeds: torch.Tensor, **_: Any) -> Any:
            from types import SimpleNamespace

            return SimpleNamespace(last_hidden_state=self.stack(inputs_embeds))

    state_transition.get_transformer_backbone = lambda *_: (Backbone(), sizes["hidden_size"])


if __name__ == "__main__":
    serve_training(train)
