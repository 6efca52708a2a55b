"""A part of a screen as a file of its own: ``cut.py screen.h5ad part.h5ad --keep COLUMN=VALUE,VALUE [--drop ...]``."""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np


def main() -> None:
    """Keep the cells whose column has one of the values, less those to drop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("screen", type=Path)
    parser.add_argument("part", type=Path)
    parser.add_argument("--keep", action="append", default=[], metavar="COLUMN=VALUE,...")
    parser.add_argument("--drop", action="append", default=[], metavar="COLUMN=VALUE,...")
    given = parser.parse_args()
    cells = ad.read_h5ad(given.screen)
    kept = np.ones(cells.n_obs, dtype=bool)
    for conditions, wanted in ((given.keep, True), (given.drop, False)):
        for condition in conditions:
            column, _, values = condition.partition("=")
            if column not in cells.obs:
                parser.error(
                    f"{given.screen} has no obs column {column!r}: it has {', '.join(map(str, cells.obs.columns))}"
                )
            labels = cells.obs[column].astype(str)
            absent = set(values.split(",")) - set(labels)
            if absent:
                parser.error(f"column {column!r} of {given.screen} has no value {sorted(absent)[0]!r}")
            kept &= labels.isin(values.split(",")).to_numpy() == wanted
    if not kept.any():
        parser.error(f"no cell of {given.screen} is left")
    cells[kept].copy().write_h5ad(given.part)


if __name__ == "__main__":
    main()
