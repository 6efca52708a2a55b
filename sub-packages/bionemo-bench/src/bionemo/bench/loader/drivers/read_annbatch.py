"""Read by annbatch its collection of zarr stores, with its sampler of one class a batch or its random one."""

# pyright: reportMissingImports=false
# The package lies in this driver's own environment.
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from annbatch import DatasetCollection, Loader
from annbatch.samplers import ClassSampler, RandomSampler
from driver_protocol import Batch, serve
from sorted_sets import Layout, log1p_rows

zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})


class AnnbatchReader:
    """An `AnnbatchReader` loops over S cells of one condition (with replacement), or cells from random chunks."""

    def __init__(self, path: Path, options: dict[str, Any]):
        self._layout = layout = Layout(Path(options["sorted"]))
        self.cell_of_row = layout.cell_of_row
        set_size, sets_per_batch = options["set_size"], options["sets_per_batch"]
        perturbed = ~layout.runs["is_control"]
        if options["by_class"]:
            codes = np.repeat(np.arange(len(layout.runs)), layout.runs["length"])
            usable = perturbed & (layout.runs["length"] >= set_size)
            sampler = ClassSampler(
                chunk_size=set_size,
                preload_nchunks=sets_per_batch,
                batch_size=set_size,
                classes=pd.Categorical.from_codes(codes, categories=np.arange(len(layout.runs))),
                class_weights=np.where(usable, layout.runs["length"], 0).astype(float),
                num_samples=int(layout.runs["length"][perturbed].sum()),
                rng=np.random.default_rng(0),
            )
        else:
            sampler = RandomSampler(
                chunk_size=options["chunk_size"],
                preload_nchunks=options["preload_nchunks"],
                batch_size=set_size * sets_per_batch,
                rng=np.random.default_rng(0),
            )
        collection = DatasetCollection(str(path / "data.zarr"), mode="r")
        self._loader = Loader(batch_sampler=sampler, return_index=True, to=None, preload_to_gpu=False)
        self._loader.use_collection(collection, load_adata=_expression_only)
        self._out = np.empty((set_size * sets_per_batch, layout.n_genes), dtype=np.float32)

    def batches(self) -> Iterator[Batch]:
        """Loop over one epoch."""
        for batch in self._loader:
            rows, counts = np.asarray(batch["index"]), batch["X"]
            out = self._out[: len(rows)]
            scale = self._layout.scale[rows]
            yield Batch(rows, log1p_rows(counts.data, counts.indices, counts.indptr, scale, out))


def _expression_only(group: zarr.Group) -> ad.AnnData:
    matrix: Any = group["X"]
    return ad.AnnData(X=ad.io.sparse_dataset(matrix))


def convert(source: Path, target: Path, options: dict[str, Any]) -> None:
    """Write the collection, the rows left in the order of the conditions."""
    DatasetCollection(str(target / "data.zarr"), mode="a").add_adatas([str(source / "data.h5ad")], shuffle=False)


if __name__ == "__main__":
    serve(AnnbatchReader, convert)
