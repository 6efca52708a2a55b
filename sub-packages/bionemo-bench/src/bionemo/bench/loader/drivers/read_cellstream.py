"""Read by cellstream `gather_rows` of a batch's sets from a per-cell archive in the order of the conditions."""

# pyright: reportMissingImports=false
# The package lies in this driver's own environment.
from pathlib import Path
from typing import Any

import cellstream
import numpy as np
from driver_protocol import serve
from sorted_sets import Layout, SetReader


class Archive:
    """An `Archive` has the layout that cellstream recommends, its counts in the integer codec."""

    def __init__(self, path: Path, threads: int):
        assert cellstream.rust_available(), "cellstream has no compiled core here"
        self._store, self._threads = cellstream.open(str(path)), threads

    def slices(self, bounds: list[tuple[int, int]]) -> tuple[np.ndarray, ...]:
        """Return values, columns and pointers of the rows of several slices."""
        rows = np.concatenate([np.arange(*bound) for bound in bounds])
        matrix = self._store.gather_rows(rows, n_threads=self._threads)
        return matrix.data, matrix.indices, matrix.indptr


def open_data(path: Path, options: dict[str, Any]) -> SetReader:
    """Open the archive."""
    return SetReader(Archive(path / "data.csad", options.get("threads", 1)), Layout(Path(options["sorted"])), options)


def convert(source: Path, target: Path, options: dict[str, Any]) -> None:
    """Write the archive; integer counts take the pfordelta codec."""
    cellstream.write_sharded(str(source / "data.h5ad"), str(target / "data.csad"), layout="cell", codec="pfordelta")


if __name__ == "__main__":
    serve(open_data, convert)
