"""Read by cell-load, the loader of STATE, its data module over log1p expression in obsm, dense, as STATE is given it.

Each perturbed cell comes beside a control cell of its context.
"""

# pyright: reportMissingImports=false
# The package lies in this driver's own environment.
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cell_load.data_modules import PerturbationDataModule
from driver_protocol import Batch, serve
from sorted_sets import Layout


class CellLoadReader:
    """A `CellLoadReader` is the training loader of the data module; every context trains."""

    def __init__(self, path: Path, options: dict[str, Any]):
        split = path / "split.toml"
        split.write_text(
            f'[datasets]\nscreen = {json.dumps(str(path / "data.h5ad"))}\n\n[training]\nscreen = "train"\n'
        )
        module = PerturbationDataModule(
            str(split),
            batch_size=options["sets_per_batch"],
            cell_sentence_len=options["set_size"],
            num_workers=options["workers"],
            pert_col="perturbation",
            cell_type_key="context",
            batch_col="context",
            control_pert="control",
            embed_key="X_hvg",
            output_space="gene",
            should_yield_control_cells=False,
            use_consecutive_loading=options["consecutive"],
        )
        module.setup("fit")
        self._loader = module.train_dataloader()
        subsets = self._loader.dataset.datasets
        self.cell_of_row = Layout(Path(options["sorted"])).cell_of_row[np.concatenate([s.indices for s in subsets])]

    def batches(self) -> Iterator[Batch]:
        """Loop over one epoch."""
        for number, batch in enumerate(self._loader):
            # The sampler lists an epoch's batches before it begins.
            rows = self._loader.batch_sampler.batches[number]
            yield Batch(rows, batch["pert_cell_emb"].numpy, len(batch["ctrl_cell_emb"]))


if __name__ == "__main__":
    serve(CellLoadReader)
