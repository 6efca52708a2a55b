"""A split of the simulated screen, and vectors of its perturbations that say something of their effects."""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np

from bionemo.screens import Split

WIDTH = 32
NOISE = 0.3  # of a vector, in units of the spread of the true vectors

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("screen", type=Path, help="h5ad file of `bionemo-scale simulate`")
parser.add_argument("--out", type=Path, required=True, help="folder for unseen.toml and vectors.npz")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

truth = ad.read_h5ad(arguments.screen, backed="r").uns["simulation"]
contexts, perturbations = ([str(name) for name in truth[key]] for key in ("context_labels", "perturbation_labels"))
rng = np.random.default_rng(arguments.seed)

order = [str(label) for label in rng.permutation(perturbations)]
held_out = {"val": frozenset(order[:4]), "test": frozenset(order[4:14])}
split = Split(fewshot=dict.fromkeys(contexts, held_out))
(arguments.out / "unseen.toml").write_text(split.to_toml("screen", "Ten perturbations are held out everywhere."))

# A random map of the mean effect over contexts, with noise: what a good embedding would be.
effects = truth["log_fold_change"].mean(axis=(0, 2))
vectors = effects @ rng.normal(size=(effects.shape[1], WIDTH))
vectors += NOISE * vectors.std() * rng.normal(size=vectors.shape)
np.savez(arguments.out / "vectors.npz", **dict(zip(perturbations, vectors, strict=True)))
