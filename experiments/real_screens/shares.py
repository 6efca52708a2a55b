"""How far to draw the share of the network to 0, by validation conditions alone.

Each validation condition of a finished run is left out in turn. The others choose a share, which is drawn to 0, and the
one that was left out says what that share gains over the linear start. No test condition is looked at.

Usage, from the root of the repository: python -m experiments.real_screens.shares --out real_screens
"""

import argparse
from itertools import combinations
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from bionemo.screens.controls import PARTS, ControlRole, ControlRoles
from experiments.real_screens.run import Fold, folds
from experiments.screens import apart

WEIGHTS = (0, 1, 2, 3, 4, 8)
"""A weight is that of so many conditions that ask for no network."""
SHARES = np.linspace(0, 1, 101)
ASKED = (0, 25, 50, 75, 100)
"""Places in `SHARES` that a validation chooses from."""


def main() -> None:
    """Predict the validation conditions of all runs of ``experiments.real_screens.run``, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.real_screens.shares", description=__doc__)
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (3)")
    given = parser.parse_args()
    gains = []
    for fold in folds(given.out):
        for seed in range(given.seeds):
            run = given.out / "runs" / f"{fold.name}-seed_{seed}"
            run = run / "trial" if (run / "trial").exists() else run
            if fold.within is None and apart(_predict, fold, run, given.out, seed):
                gains += _gains(fold, run, given.out, seed)
    table: Any = pd.DataFrame(gains).groupby(["group", "chose"])[[f"weight {weight}" for weight in WEIGHTS]].mean()
    print(table.round(4).to_string())  # noqa: T201


def _predict(fold: Fold, run: Path, out: Path, seed: int) -> None:
    from bionemo.scale.inference.predict import predict

    cells = fold.screen.source(out)
    for share in (0.0, 1.0):
        choices = {"like": cells, "part": "val", "seed": seed, "network_share": share}
        predict(run, cells, run / f"val_{share:.0f}.h5ad", overwrite=True, progress=False, **choices)


def _gains(fold: Fold, run: Path, out: Path, seed: int) -> list[dict]:
    """Return what is gained over the start where some conditions chose: one of them, two, or all but one."""
    scores = _pdcorr(fold, run, out, seed)
    found = []
    for place in range(len(scores)):
        others = [other for other in range(len(scores)) if other != place]
        for size in sorted({1, 2, len(others)} & set(range(1, len(others) + 1))):
            for chosen_by in combinations(others, size):
                share = ASKED[int(scores[list(chosen_by)][:, ASKED].mean(0).argmax())]
                gained = {
                    f"weight {weight}": scores[place, round(share * size / (size + weight))] - scores[place, 0]
                    for weight in WEIGHTS
                }
                found.append({"group": fold.group, "chose": size, **gained})
    return found


def _pdcorr(fold: Fold, run: Path, out: Path, seed: int) -> np.ndarray:
    """Return PDCorr of every validation condition at every share, [conditions, shares], with independent controls."""
    columns, roles = fold.screen.columns, ControlRoles(rotation=seed % PARTS)
    cells: Any = ad.read_h5ad(fold.screen.source(out))
    start: Any
    network: Any
    start, network = (ad.read_h5ad(run / f"val_{share}.h5ad") for share in (0, 1))
    context, perturbation = columns["context_key"], columns["perturbation_key"]
    genes = cells.var_names.get_indexer(start.var_names)
    size = np.asarray(cells.X.sum(1))
    labels = cells.obs[perturbation].astype(str).to_numpy()
    parts = {role: roles.has(cells.obs_names, role) for role in (ControlRole.INPUT, ControlRole.TARGET)}

    def mean(chosen: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(chosen)
        return np.log1p(np.asarray(cells.X[rows][:, genes].todense()) / size[rows] * 1e4).mean(0)

    scores = []
    for where, label in start.obs[[context, perturbation]].astype(str).drop_duplicates().to_numpy():
        there = (cells.obs[context].astype(str) == where).to_numpy()
        control = {role: mean(there & (labels == columns["control"]) & part) for role, part in parts.items()}
        observed = mean(there & (labels == label)) - control[ControlRole.TARGET]
        alone, whole = (
            np.asarray(made.X[((made.obs[context] == where) & (made.obs[perturbation] == label)).to_numpy()].mean(0))
            for made in (start, network)
        )
        mixed = (alone + share * (whole - alone) - control[ControlRole.INPUT] for share in SHARES)
        scores.append([np.corrcoef(delta.ravel(), observed)[0, 1] for delta in mixed])
    return np.array(scores)


if __name__ == "__main__":
    main()
