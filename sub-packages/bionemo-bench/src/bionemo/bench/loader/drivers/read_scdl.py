"""Read by bionemo-scdl rows of its memory map, one `get_row` a cell, over the sorted file."""

# pyright: reportMissingImports=false
# The package lies in this driver's own environment.
from pathlib import Path
from typing import Any

import numpy as np
from driver_protocol import serve
from sorted_sets import Layout, SetReader, concatenated

from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset


class ScdlRows:
    """A `ScdlRows` is an archive of bionemo-scdl."""

    def __init__(self, path: Path):
        self._rows = SingleCellMemMapDataset(str(path))

    def slices(self, bounds: list[tuple[int, int]]) -> tuple[np.ndarray, ...]:
        """Return values, columns and pointers of the rows of several slices."""
        parts = [self._rows.get_row(row)[0] for bound in bounds for row in range(*bound)]
        return concatenated(parts, [np.array([len(part[0]) for part in parts])])


def open_data(path: Path, options: dict[str, Any]) -> SetReader:
    """Open the archive."""
    return SetReader(ScdlRows(path / "data"), Layout(Path(options["sorted"])), options)


def convert(source: Path, target: Path, options: dict[str, Any]) -> None:
    """Write the archive; float32 values are its default."""
    SingleCellMemMapDataset(str(target / "data"), h5ad_path=str(source / "data.h5ad"), use_X_not_raw=True).save()


if __name__ == "__main__":
    serve(open_data, convert)
