"""cell-load, the loader of STATE: its data module over log1p expression in obsm, dense, as STATE is given it.

Each perturbed cell comes beside a control cell of its context.
"""

# pyright: reportMissingImports=false
# The package lies in this driver's own environment.
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from cell_load.data_modules import PerturbationDataModule
from driver_protocol import Batch, serve
from sorted_sets import Layout

BLOCK_ROWS = 16_384


class CellLoadReader:
    """The training loader of the data module; every context trains."""

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


def convert(source: Path, target: Path, options: dict[str, Any]) -> None:
    """Write log1p rows to a dense, uncompressed obsm/X_hvg, beside the labels of the sorted file."""
    layout = Layout(source)
    n_cells, n_genes = len(layout.cell_of_row), layout.n_genes
    counts: Any  # h5py cannot say whether a name is a group or an array
    with h5py.File(source / "data.h5ad") as counts, h5py.File(target / "data.h5ad", "w") as out:
        counts.copy("obs", out)
        counts.copy("var", out)
        # The number of genes is read off X, which is otherwise left alone.
        out.create_group("X").attrs.update({"encoding-type": "csr_matrix", "shape": (n_cells, n_genes)})
        dense = out.create_dataset("obsm/X_hvg", shape=(n_cells, n_genes), dtype=np.float32)
        pointers = counts["X/indptr"][:]
        for begin in range(0, n_cells, BLOCK_ROWS):
            end = min(begin + BLOCK_ROWS, n_cells)
            first, last = pointers[begin], pointers[end]
            lengths = np.diff(pointers[begin : end + 1])
            block = np.zeros((end - begin, n_genes), dtype=np.float32)
            values = counts["X/data"][first:last] * np.repeat(layout.scale[begin:end], lengths)
            block[np.repeat(np.arange(end - begin), lengths), counts["X/indices"][first:last]] = np.log1p(values)
            dense[begin:end] = block


if __name__ == "__main__":
    serve(CellLoadReader, convert)
