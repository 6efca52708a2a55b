"""Open what prediction reads: cells on disk or in memory, and the labels in their `obs`."""

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from bionemo.screens.files import read_anndata
from bionemo.screens.obs import labels_of, look_alikes

Cells = str | Path | ad.AnnData
"""An h5ad file or a zarr directory, or cells that are in memory already."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """`Columns` says where a file keeps its labels: names of `obs` columns, and the label of control cells.

    A key ``A+B`` that is no column itself joins the columns A and B, as ``prepare`` does.
    """

    perturbation: str
    context: str
    batch: str | None
    control: str


def opened(cells: Cells, *, labels_only: bool = False) -> tuple[ad.AnnData, str]:
    """Return cells as AnnData, and what messages call them; `labels_only` leaves the expression of a file unread.

    Raises
    ------
    InputError
        The file is absent, no AnnData, or leads to other files.
    """
    if isinstance(cells, ad.AnnData):
        return (cells.to_memory() if cells.isbacked and not labels_only else cells), "the AnnData"
    return read_anndata(cells, obs_only=labels_only), str(cells)


def perturbations_of(obs: pd.DataFrame, columns: Columns, name: str) -> np.ndarray:
    """Return the perturbation label of every cell, object array of str [cells].

    Raises
    ------
    InputError
        The column is missing, a cell has no label, or a label is the control's but for capitals or blanks.
    """
    labels = labels_of(obs, columns.perturbation, name)
    look_alikes(set(labels), columns.perturbation, name, control=columns.control)
    return labels


def has_key(obs: pd.DataFrame, key: str) -> bool:
    """Say whether `obs` has the column, or all the columns, that a key names."""
    return key in obs or all(column in obs for column in key.split("+"))
