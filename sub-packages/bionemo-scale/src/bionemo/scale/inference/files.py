"""h5ad files and the labels of their cells."""

from collections.abc import Iterable
from pathlib import Path

import anndata as ad
import pandas as pd

from bionemo.screens.errors import InputError
from bionemo.screens.obs import labels_of


def read_h5ad(path: Path, *, labels_only: bool = False) -> ad.AnnData:
    """Open a file; ``labels_only`` leaves the expression on disk.

    Raises
    ------
    InputError
        The file is absent, or no h5ad.
    """
    try:
        return ad.read_h5ad(path, backed="r" if labels_only else None)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path.") from None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as h5ad ({error}): it may be truncated; copy it again.") from None


def labelled(cells: ad.AnnData, keys: Iterable[str], path: Path) -> pd.DataFrame:
    """Return ``obs`` with a column of labels (str) for every key; a key may join several columns.

    Raises
    ------
    InputError
        A column is missing, a cell has no label in it, or different labels would be joined to one.
    """
    obs = pd.DataFrame(cells.obs)
    return obs.assign(**{key: labels_of(obs, key, path) for key in keys})


def missing_columns(cells: ad.AnnData, key: str) -> list[str]:
    """Return the columns of ``obs`` that ``key`` needs and the file has not."""
    return [] if key in cells.obs else [column for column in key.split("+") if column not in cells.obs]
