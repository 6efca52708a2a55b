"""Read a `CellStore` by `SetLoader`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from driver_protocol import Batch, serve

from bionemo.cellsets import CellStore, SetLoader, SetSampler, prepare


class StoreReader:
    """A `StoreReader` loops over the loader's batches of all perturbed cells."""

    def __init__(self, path: Path, options: dict[str, Any]):
        store = CellStore.open(path / "data")
        sampler = SetSampler(
            store,
            ~store.is_control,
            set_size=options["set_size"],
            sets_per_batch=options["sets_per_batch"],
            seed=0,
            rank=options.get("rank", 0),
            world_size=options.get("world_size", 1),
            **options.get("sampler", {}),
        )
        loader_options = dict(options.get("loader", {}))
        if "dtype" in loader_options:
            import torch

            loader_options["dtype"] = getattr(torch, loader_options["dtype"])
        # Endless, as a training run has it: it reads ahead into the next epoch.
        self._batches = iter(SetLoader(store, sampler, **loader_options))
        self._steps_per_epoch, self._step = sampler.steps_per_epoch, 0
        self.cell_of_row = np.load(path / "cell_of_row.npy", mmap_mode="r")

    def batches(self) -> Iterator[Batch]:
        """Loop to the end of an epoch; one that was broken off is gone on with."""
        while True:
            batch = next(self._batches)
            self._step = (self._step + 1) % self._steps_per_epoch
            yield Batch(
                # Copied: the numbers are kept to the end, and the batch's memory is to be used again.
                batch.rows.numpy().reshape(-1).copy(),
                lambda batch=batch: _dense(batch.perturbed),
                np.count_nonzero(batch.control_rows.numpy() >= 0),
            )
            if self._step == 0:
                return


def _dense(cells: Any) -> np.ndarray:
    dense = cells.densify() if hasattr(cells, "densify") else cells
    return dense.float().numpy().reshape(-1, dense.shape[-1])


def convert(source: Path, target: Path, options: dict[str, Any]) -> None:
    """Prepare the store."""
    store = prepare(
        [source / "data.h5ad"],
        target / "data",
        perturbation_key="perturbation",
        control="control",
        context_key="context",
        n_genes=None,
        target_sum=options["target_sum"],
        progress=False,
    )
    # Cells are named by their number in the screen.
    np.save(target / "cell_of_row.npy", store.obs().index.to_numpy().astype(np.int64))


if __name__ == "__main__":
    serve(StoreReader, convert)
