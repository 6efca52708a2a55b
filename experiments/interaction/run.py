"""Predict held-out effect signatures by the linear start, with and without its interaction.

    python -m experiments.interaction.run    # the two files are in the folder that SCALE_SCREENS names

Signatures are effects of a perturbation in a context, z-scores of ranks, without cells. The linear start is the
package's own, on a scale where a shift adds (pseudocount 1), every signature with the same weight and no known noise.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.fit import Fit
from bionemo.scale.linear_start.fitted import FittedLinearStart
from bionemo.screens.controls import ControlRole
from experiments.screens import real_screen

SCREENS = {
    "OP3, half of the drugs in 2 of 4 cell types": ("op3_rank_signatures.h5ad", 2, 0.5),
    "Tahoe-100M, 70 % of the drugs in 5 of 47 lines": ("tahoe_rank_signatures.h5ad", 5, 0.7),
}
"""Name -> file, contexts with held-out signatures, share of their signatures that is held out."""
SEEDS = (0, 1)
GENES = 1500
LEVEL = 15.0
"""Control cells have this mean in every gene, so that no shift meets the bound at 0."""


class Start(Fit):
    """The linear start of the package, for signatures."""

    pseudocount, half_weight = 1.0, 0


class WithoutInteraction(Start):
    """The linear start without its interaction."""

    interacts = False


class Additive(WithoutInteraction):
    """The effect elsewhere plus what is common here, nothing fitted."""

    def _solve(self) -> tuple[np.ndarray, np.ndarray]:
        return self.plain, super()._solve()[1]


ARMS = {"additive": Additive, "linear start without interaction": WithoutInteraction, "linear start": Start}


@dataclass
class Signatures:
    """`Signatures` have the attributes of `ConditionMeans` that a linear start is fitted to."""

    mean: dict[tuple[int, int], np.ndarray]
    control: dict[ControlRole, dict[int, np.ndarray]]
    control_noise: dict[ControlRole, dict[int, np.ndarray]]
    batches: dict[int, set[int]]
    cells: dict[tuple[int, int], int] = field(init=False)
    noise: dict[tuple[int, int], np.ndarray] = field(init=False)

    def __post_init__(self):
        self.cells = dict.fromkeys(self.mean, 1)
        self.noise = {condition: np.zeros_like(mean) for condition, mean in self.mean.items()}


def scores(path: Path, held_out_contexts: int, held_out_share: float, seed: int) -> tuple[int, dict[str, float]]:
    """Return how many signatures were held out, and the mean correlation of each arm with them over genes."""
    signatures = ad.read_h5ad(path)
    effect = np.asarray(signatures.to_df(), dtype=np.float64)
    effect = effect[:, np.argsort(-np.abs(effect).mean(axis=0))[:GENES]]
    contexts, k = np.unique(signatures.obs["context"].astype(str), return_inverse=True)
    names, p = np.unique(signatures.obs["perturbation"].astype(str), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = [
        (context, label)
        for context in rng.choice(len(contexts), held_out_contexts, replace=False)
        for label in np.flatnonzero(rng.random(len(names)) < held_out_share)
    ]
    held_out = {(int(context), int(label) + 1) for context, label in drawn}  # label 0 is the control
    truth = {(int(i), int(j) + 1): row for i, j, row in zip(k, p, effect, strict=True)}
    control = {context: np.full(effect.shape[1], LEVEL) for context in range(len(contexts))}
    trained = {condition: LEVEL + row for condition, row in truth.items() if condition not in held_out}
    labels = sorted({label for _, label in trained})
    means = Signatures(
        mean=trained,
        control={role: control for role in (ControlRole.INPUT, ControlRole.TARGET)},
        control_noise={ControlRole.TARGET: {context: np.zeros(effect.shape[1]) for context in control}},
        batches={label: {0} for label in labels},  # plates are not known
    )
    every = ["control", *map(str, names)]
    vocabulary = Vocabulary(
        genes=tuple(map(str, range(effect.shape[1]))),
        contexts=tuple(map(str, contexts)),
        perturbations=tuple(every),
        batches=(),
        control="control",
        kind="log1p",
        target_sum=1e4,
        separator="",
        start_labels=tuple(every[label] for label in labels),
    )
    found = {}
    test = [condition for condition in truth if condition in held_out and condition[1] in labels]
    for arm, fit in ARMS.items():
        known = means, list(map(str, contexts)), every, vocabulary
        start = FittedLinearStart(*known, fit=fit)  # pyright: ignore[reportArgumentType]
        found[arm] = float(np.mean([np.corrcoef(start.delta(*c).numpy(), truth[c])[0, 1] for c in test]))
    return len(test), found


def main() -> None:
    """Write a table to stdout."""
    argparse.ArgumentParser(
        prog="python -m experiments.interaction.run", description=(__doc__ or "").splitlines()[0]
    ).parse_args()
    rows = [["signatures", "seed", "held out", *ARMS], ["---", "---", "---:", *("---:" for _ in ARMS)]]
    for name, (file, contexts, share) in SCREENS.items():
        for seed in SEEDS:
            held_out, found = scores(real_screen(file), contexts, share, seed)
            rows.append([name, str(seed), str(held_out), *(f"{value:.3f}" for value in found.values())])
    sys.stdout.writelines(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
