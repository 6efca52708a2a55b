"""h5ad files and the labels of their cells."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import anndata as ad
import pandas as pd

from bionemo.screens.errors import InputError


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
    """``obs`` with a column for every key, each cell with a label in it.

    A key ``A+B`` that is no column itself joins the columns A and B, as ``prepare`` does.

    Raises
    ------
    InputError
        A column is missing, or a cell has no label in it.
    """
    obs = pd.DataFrame(cells.obs)
    for key in keys:
        columns = _columns(obs, key)
        for column in columns:
            _require(obs, column, path)
        if len(columns) > 1:
            obs = obs.assign(**{key: obs[columns].astype(str).agg("+".join, axis=1)})
    return obs


def missing_columns(cells: ad.AnnData, key: str) -> list[str]:
    """Columns of ``obs`` that ``key`` needs and the file has not."""
    return [column for column in _columns(pd.DataFrame(cells.obs), key) if column not in cells.obs]


def _columns(obs: pd.DataFrame, key: str) -> list[str]:
    return [key] if key in obs or "+" not in key else key.split("+")


def _require(obs: pd.DataFrame, key: str, path: Path) -> None:
    if key not in obs:
        near = get_close_matches(key, list(map(str, obs.columns)), 1)
        raise InputError(
            f"{path} has no obs column {key!r}; it has {', '.join(map(str, obs.columns))}"
            + (f": did you mean {near[0]!r}?" if near else ".")
        )
    if bool(obs[key].isna().any()):
        raise InputError(f"obs[{key!r}] of {path} has {int(obs[key].isna().sum())} cells without a label: name them.")
