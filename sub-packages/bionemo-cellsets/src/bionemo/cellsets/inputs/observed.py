"""Which conditions some files hold, before there is a store of them."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bionemo.cellsets.inputs import matrices as row_readers
from bionemo.cellsets.inputs.anndata_files import AnnDataInput


def observed_conditions(
    inputs: Sequence[str | Path], *, perturbation_key: str, context_key: str
) -> Counter[tuple[str, str]]:
    """Count the cells of every condition; the labels are read in blocks, and no expression is.

    Parameters
    ----------
    inputs : sequence of paths
        h5ad files and zarr directories.
    perturbation_key, context_key : str
        obs columns; names joined by ``+`` mean the combination of several.

    Returns
    -------
    Counter
        (context, perturbation) -> cells, control cells included.

    Raises
    ------
    InputError
        If a file is no AnnData, or lacks a column.
    """
    cells: Counter[tuple[str, str]] = Counter()
    for path in map(Path, inputs):
        with contextlib.closing(AnnDataInput(path, layer=None)) as file:
            for start in range(0, file.n_cells, row_readers.BLOCK_ROWS):
                stop = min(start + row_readers.BLOCK_ROWS, file.n_cells)
                table = pd.DataFrame(
                    {key: file.labels(key, start, stop) for key in dict.fromkeys((context_key, perturbation_key))}
                )
                for (context, perturbation), count in table.value_counts([context_key, perturbation_key]).items():  # type: ignore[misc]
                    cells[context, perturbation] += int(count)
    return cells
