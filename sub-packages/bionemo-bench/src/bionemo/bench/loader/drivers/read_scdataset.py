"""Read by scDataset shuffled blocks of a backed AnnData file, with the transform it supplies for AnnData.

It shuffles the cells of the blocks that it fetches together, so a batch is a mixture of conditions.
"""

# pyright: reportMissingImports=false
# The package lies in this driver's own environment.
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from driver_protocol import Batch, serve
from scdataset import BlockShuffling, scDataset
from scdataset.transforms import adata_to_mindex
from sorted_sets import Layout


class ScDatasetReader:
    """A `ScDatasetReader` loops over batches of B*S cells from blocks of S consecutive ones."""

    def __init__(self, path: Path, options: dict[str, Any]):
        self._layout = Layout(path)
        self.cell_of_row = self._layout.cell_of_row
        backed = ad.read_h5ad(path / "data.h5ad", backed="r")
        # A number a row, so that the batch says which cells it holds.
        backed.obs["row"] = np.arange(backed.n_obs)
        runs = self._layout.runs[~self._layout.runs["is_control"]]
        perturbed = np.concatenate([np.arange(run["start"], run["start"] + run["length"]) for run in runs])
        self._dataset = scDataset(
            backed,
            BlockShuffling(block_size=options["set_size"], indices=perturbed),
            batch_size=options["set_size"] * options["sets_per_batch"],
            fetch_factor=options["fetch_factor"],
            fetch_transform=self._normalised,
        )

    def _normalised(self, cells: Any) -> Any:
        dense = adata_to_mindex(cells, columns=["row"])
        expression = np.asarray(dense["X"], dtype=np.float32)
        expression *= self._layout.scale[dense["row"], None]
        np.log1p(expression, out=expression)
        return dense

    def batches(self) -> Iterator[Batch]:
        """Loop over one epoch."""
        for batch in self._dataset:
            yield Batch(batch["row"], batch["X"])


if __name__ == "__main__":
    serve(ScDatasetReader)
