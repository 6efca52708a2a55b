"""Take from large files what a prediction starts from and is scored on: some cells of every condition.

``python scoring_cells.py plates/*.h5ad --protocol tahoe100m --split split.toml --out scoring.h5ad``

Of each condition, file by file: at most ``--held-out`` cells where the split holds it out, ``--training`` cells
elsewhere, ``--controls`` control cells. All genes are kept, since library sizes are over all genes.
"""

import argparse
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from bionemo.screens import Split, find_protocol
from bionemo.screens.obs import labels_of


def main() -> None:
    """Read the command line, then file after file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT.h5ad")
    for name, kind in (("protocol", str), ("split", Path), ("out", Path)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    for name, default in (("held-out", 500), ("training", 50), ("controls", 2000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    protocol, split = find_protocol(given.protocol), Split.from_toml(given.split)
    most = {"train": given.training, "val": given.held_out, "test": given.held_out}
    rng = np.random.default_rng(given.seed)
    parts = []
    for path in given.inputs:
        cells = ad.read_h5ad(path, backed="r")
        obs: Any = cells.obs
        keys = (protocol.context_key, protocol.perturbation_key)
        labels = pd.DataFrame({key: labels_of(obs, key, path) for key in keys})
        rows = []
        members: Any
        for (where, what), members in labels.groupby(list(keys)).indices.items():  # type: ignore[misc]
            limit = given.controls if what == protocol.control else most[split.part(where, what)]
            rows.append(rng.permutation(members)[:limit])
        parts.append(cells[np.sort(np.concatenate(rows))].to_memory())
    ad.concat(parts, merge="same").write_h5ad(given.out)


if __name__ == "__main__":
    main()
