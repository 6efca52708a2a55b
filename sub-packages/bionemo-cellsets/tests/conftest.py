"""A small screen with every shape a real one has, and the real data where they are at hand."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bionemo.cellsets import prepare

SCREENS = Path(os.environ.get("SCALE_SCREENS") or Path(__file__).parents[4] / "shared" / "data")
KEYS = {"perturbation_key": "gene", "control": "ctrl", "context_key": "line", "batch_key": "plate"}
# (context, perturbation, batch) -> cells. Batch p2 of B has no controls; 'rare' is shorter than any set.
CONDITIONS = {
    ("A", "ctrl", "p1"): 60,
    ("A", "ctrl", "p2"): 11,
    ("A", "TP53", "p1"): 45,
    ("A", "TP53", "p2"): 33,
    ("A", "rare", "p1"): 3,
    ("B", "ctrl", "p1"): 40,
    ("B", "TP53", "p1"): 16,
    ("B", "TP53", "p2"): 37,
    ("C.2", "ctrl", "p1"): 20,
    ("C.2", "MYC", "p1"): 50,
}


@pytest.fixture(scope="session")
def screen() -> ad.AnnData:
    """Counts [315, 30] in random row order, with a zero cell, and one count beyond a byte."""
    rng = np.random.default_rng(7)
    labels = [label for label, cells in CONDITIONS.items() for _ in range(cells)]
    labels = [labels[i] for i in rng.permutation(len(labels))]
    counts = rng.negative_binomial(0.6, 0.2, size=(len(labels), 30)) * rng.binomial(1, rng.uniform(0.1, 0.9, 30))
    counts[5] = 0
    counts[9, 3] = 70_000
    obs = pd.DataFrame(labels, columns=["line", "gene", "plate"], dtype="category")
    obs.index = [f"cell{i}" for i in range(len(labels))]
    matrix = sp.csr_matrix(counts.astype(np.float32))
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(30)]))


@pytest.fixture(scope="session")
def screen_path(screen, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("screen") / "screen.h5ad"
    screen.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def store(screen_path, tmp_path_factory):
    """All genes of the screen; tests do not change it."""
    return prepare([screen_path], tmp_path_factory.mktemp("store") / "store", n_genes=None, progress=False, **KEYS)


@pytest.fixture
def keys() -> dict[str, str]:
    return dict(KEYS)


@pytest.fixture
def real_data():
    """Return the path of a real data file, or skip."""

    def path(name: str) -> Path:
        if not (SCREENS / name).is_file():
            pytest.skip(f"{name} is not in {SCREENS}: set SCALE_SCREENS to the directory of the real screens")
        return SCREENS / name

    return path


@pytest.fixture
def altered(screen, tmp_path):
    """Write the screen after a change, and return its path."""

    def write(change, name: str = "altered.h5ad") -> Path:
        data = screen.copy()
        change(data)
        data.write_h5ad(tmp_path / name)
        return tmp_path / name

    return write
