"""Means of conditions, and how far they are to be trusted."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from bionemo.cellsets import CellStore, prepare
from bionemo.scale.linear_start.means import ConditionMeans
from bionemo.screens.controls import ControlRole, ControlRoles, Controls

SILENT = 4
"""Cells of a perturbation none of which shows the first gene."""


@pytest.fixture(scope="module")
def means(tmp_path_factory):
    folder = tmp_path_factory.mktemp("means")
    counts = np.random.default_rng(0).poisson([1.0, 3.0, 50.0], size=(200 + SILENT, 3)).astype(np.float32)
    counts[-SILENT:, 0] = 0
    labels = ["ctrl"] * 150 + ["MYC"] * 50 + ["TP53"] * SILENT
    obs = pd.DataFrame({"context": "A", "perturbation": labels}, index=[f"cell{i}" for i in range(len(labels))])
    ad.AnnData(counts, obs, pd.DataFrame(index=["a", "b", "c"])).write_h5ad(folder / "screen.h5ad")
    store = CellStore.open(
        prepare(
            [folder / "screen.h5ad"], folder / "store", perturbation_key="perturbation", control="ctrl",
            context_key="context", n_genes=None, progress=False,
        ).path
    )  # fmt: skip
    return ConditionMeans(store, np.ones(len(store.runs), dtype=bool), ControlRoles(Controls.SHARED)), store


def test_a_mean_is_as_uncertain_as_cells_differ(means):
    found, store = means
    (run,) = [run for run in store.runs if store.perturbations[run["perturbation"]] == "MYC"]
    cells = store.read(run["start"] + np.arange(run["length"])).astype(np.float64)
    controls = [run for run in store.runs if store.perturbations[run["perturbation"]] == "ctrl"]
    least = np.concatenate([store.read(run["start"] + np.arange(run["length"])) for run in controls])
    wanted = np.maximum(cells.var(0, ddof=1), least.var(0, ddof=1, dtype=np.float64)) / 50
    np.testing.assert_allclose(found.noise[0, int(run["perturbation"])], wanted, rtol=1e-5)


def test_a_few_cells_that_all_miss_a_gene_do_not_make_its_mean_certain(means):
    found, store = means
    silent = list(store.perturbations).index("TP53")
    of_controls = found.control_noise[ControlRole.INPUT][0]
    assert found.noise[0, silent][0] == pytest.approx(of_controls[0] * 150 / SILENT, rel=1e-5)
