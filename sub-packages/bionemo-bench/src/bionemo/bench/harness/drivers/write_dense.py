"""Write the screen as STATE reads it fastest: dense log1p float32 in obsm, uncompressed and contiguous."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
from driver_protocol import serve

BLOCK_ROWS = 8_192


def convert(source: Path, target: Path, options: dict[str, Any]) -> None:
    """Write the rows of a CSR file in the order they are in there, beside its labels.

    A cell's library size is the sum of its counts: the file has all genes.
    """
    file: Any  # h5py cannot say whether a name is a group or an array
    genes = json.loads((source / "facts.json").read_text())["genes"]
    with h5py.File(source / "data.h5ad") as file, h5py.File(target / "data.h5ad", "w") as out:
        file.copy("obs", out)
        file.copy("var", out)
        pointers = file["X/indptr"][:]
        cells = len(pointers) - 1
        # The number of genes is read off X, which is otherwise left alone.
        out.create_group("X").attrs.update({"encoding-type": "csr_matrix", "shape": (cells, genes)})
        dense = out.create_dataset("obsm/X_hvg", shape=(cells, genes), dtype=np.float32)
        for begin in range(0, cells, BLOCK_ROWS):
            end = min(begin + BLOCK_ROWS, cells)
            first, last = pointers[begin], pointers[end]
            parts = file["X/data"][first:last], file["X/indices"][first:last], pointers[begin : end + 1] - first
            counts = sp.csr_matrix(parts, shape=(end - begin, genes), dtype=np.float32)
            library = np.asarray(counts.sum(axis=1)).ravel()
            counts.data *= np.repeat(options["target_sum"] / np.maximum(library, 1), np.diff(counts.indptr))
            counts.data = np.log1p(counts.data)
            dense[begin:end] = counts.toarray()


if __name__ == "__main__":
    serve(convert=convert)
