"""Read the labels of cells, and count the cells of each condition before there is a store of them."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bionemo.cellsets.inputs import matrices
from bionemo.cellsets.inputs.anndata_files import AnnDataInput
from bionemo.cellsets.inputs.cell_input import CellInput
from bionemo.screens.labels import Condition
from bionemo.screens.obs import ObsKey, blank_labels, is_blank


def label_blocks(cells: CellInput, keys: Mapping[str, ObsKey]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the labels of an input's cells, a block of rows at a time: kind of label -> object array of str.

    `keys` maps each kind of label to the columns that hold it. An InputError says that a column is missing, that
    different labels would be joined to one, or, after the last block, that a cell has no label.
    """
    columns = {kind: key.columns(cells.columns, cells.path) for kind, key in keys.items()}
    blank: dict[str, tuple[int, int]] = {}
    for start in range(0, cells.n_cells, matrices.BLOCK_ROWS):
        stop = min(start + matrices.BLOCK_ROWS, cells.n_cells)
        labels = {
            kind: key.join([cells.labels(column, start, stop) for column in columns[kind]], cells.path)
            for kind, key in keys.items()
        }
        for kind, of_kind in labels.items():
            rows = np.flatnonzero(is_blank(of_kind))
            if len(rows):
                count, first = blank.get(kind, (0, start + int(rows[0])))
                blank[kind] = (count + len(rows), first)
        yield labels
    for kind, (count, first) in blank.items():
        raise blank_labels(keys[kind].key, cells.path, count, cells.names(first, first + 1)[0].decode())


def observed_conditions(inputs: Sequence[str | Path], *, perturbation_key: str, context_key: str) -> Counter[Condition]:
    """Count the cells of every (context, perturbation) of h5ad files and zarr directories, control cells included.

    The keys are obs columns; names joined by ``+`` mean the combination of several. The labels are read in blocks, and
    no expression is. An InputError says that a file is no AnnData or lacks a column, or that a cell lacks a label.
    """
    keys = {"context": ObsKey(context_key), "perturbation": ObsKey(perturbation_key)}
    cells: Counter[Condition] = Counter()
    for path in map(Path, inputs):
        with contextlib.closing(AnnDataInput(path, layer=None)) as file:
            for labels in label_blocks(file, keys):
                for (context, perturbation), count in pd.DataFrame(labels).value_counts(list(keys)).items():  # type: ignore[misc]
                    cells[context, perturbation] += int(count)
    return cells
