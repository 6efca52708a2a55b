"""How much of what can be learned was learned: predictions of the simulated screen against its expected shifts.

The expected shift of a condition has no sampling noise, so the right prediction has a correlation of 1 and an error of
0. Beside the arms of finished runs stands an oracle of transfer: the expected shift of the perturbation in its training
contexts, which is as far as knowledge of other contexts alone goes.

Usage, from the root of the repository: python -m experiments.real_screens.oracle --out real_screens
"""

import argparse
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from bionemo.screens import Split
from bionemo.screens.controls import ControlRole, ControlRoles
from experiments.real_screens.run import folds
from experiments.real_screens.summary import ARMS
from experiments.screens import seeded


def main() -> None:
    """Print the mean over seeds and conditions of each arm's correlations, and its squared error over all of them."""
    parser = argparse.ArgumentParser(prog="python -m experiments.real_screens.oracle", description=__doc__)
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds (3)")
    parser.add_argument(
        "--fold", default="simulated", help="which simulated fold: simulated (the default) or many_contexts"
    )
    given = parser.parse_args()
    of_fold = next(fold.screen for fold in folds(given.out) if fold.name == given.fold)
    screen: Any = ad.read_h5ad(of_fold.source(given.out))
    truth = screen.uns["simulation"]
    shift_KPG = np.einsum("kpug,ku->kpg", truth["expected_shift"], truth["subpopulation_share"])
    contexts, labels = (list(map(str, truth[f"{name}_labels"])) for name in ("context", "perturbation"))
    held_out = Split.from_toml(of_fold.split).to_dict()["fewshot"]
    rows = []
    for seed in range(given.seeds):
        control = _control_means(screen, contexts, ControlRoles(rotation=int(seeded(seed)[1].partition("=")[2])))
        run = given.out / "runs" / f"{given.fold}-seed_{seed}"
        cells = {arm: ad.read_h5ad(run / f"{arm.replace(' ', '_')}.h5ad") for arm in ARMS[:3]}
        for context, parts in held_out.items():
            for label in parts["test"]:
                k, p = contexts.index(context), labels.index(label)
                if not shift_KPG[k, p].any():
                    continue  # a perturbation without an effect, which correlates with nothing
                shown = [j for j, other in enumerate(contexts) if label not in _held_out(held_out, other)]
                elsewhere = shift_KPG[shown, p].mean(0)
                rows.append(_row("expected shift elsewhere (oracle)", elsewhere, shift_KPG[k, p], elsewhere))
                for arm in cells:
                    predicted = _mean(cells[arm], context, label) - control[context]
                    rows.append(_row(arm, predicted, shift_KPG[k, p], elsewhere))
    means: Any = pd.DataFrame(rows).groupby("arm", sort=False).mean()
    means["squared error"] /= means.pop("squared length")
    print(means.round(3).to_string())  # noqa: T201


def _row(arm: str, predicted: np.ndarray, expected: np.ndarray, elsewhere: np.ndarray) -> dict:
    """Return scores of a shift: of the whole, and of what is the context's own, which transfer cannot say."""
    own = predicted - elsewhere
    return {
        "arm": arm,
        "correlation": np.corrcoef(predicted, expected)[0, 1],
        "squared error": np.square(predicted - expected).sum(),
        "squared length": np.square(expected).sum(),
        "correlation of the context's own part": np.corrcoef(own, expected - elsewhere)[0, 1] if own.any() else 0.0,
    }


def _held_out(held_out: dict, context: str) -> list[str]:
    return [label for labels in held_out.get(context, {}).values() for label in labels]


def _control_means(screen: Any, contexts: list[str], roles: ControlRoles) -> dict[str, np.ndarray]:
    own = (screen.obs["perturbation"] == "control").to_numpy() & roles.has(screen.obs_names, ControlRole.INPUT)
    found = {}
    for context in contexts:
        counts = screen.X[np.flatnonzero(own & (screen.obs["context"] == context).to_numpy())].toarray()
        found[context] = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).mean(0)
    return found


def _mean(cells: Any, context: str, label: str) -> np.ndarray:
    rows = ((cells.obs["context"] == context) & (cells.obs["perturbation"] == label)).to_numpy()
    return np.asarray(cells.X[np.flatnonzero(rows)].mean(0)).ravel()


if __name__ == "__main__":
    main()
