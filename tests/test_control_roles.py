"""What the truth is measured against is held out of a training as a test condition is."""

import anndata as ad
import numpy as np
import pytest
from jobs import pretrain_arguments, saved_weights

from bionemo.screens.controls import ControlRole, ControlRoles


@pytest.mark.slow
def test_control_cells_of_the_truth_change_no_weight(workshop, command, tmp_path):
    cells = ad.read_h5ad(workshop / "screen.h5ad")
    truth = (cells.obs["perturbation"] == "control") & ControlRoles(rotation=1).has(cells.obs_names, ControlRole.TRUTH)
    counts = cells.X.toarray()
    counts[truth] = counts[truth] * 3 + np.arange(cells.n_vars) % 5
    cells.X = type(cells.X)(counts)
    cells.write_h5ad(tmp_path / "screen.h5ad")
    keys = (
        "--perturbation-key",
        "perturbation",
        "--control",
        "control",
        "--context-key",
        "context",
        "--batch-key",
        "batch",
    )
    settings = ("training.control_rotation=1", "training.max_steps=4", "training.validate_every=2")
    weights = []
    for folder, out in ((workshop, tmp_path / "before"), (tmp_path, tmp_path / "after")):
        command("prepare", folder / "screen.h5ad", "--store", out / "store", *keys)
        (out / "split.toml").write_bytes((workshop / "split.toml").read_bytes())
        said = command(*pretrain_arguments(out, out / "run", *settings))
        assert "the fewest control cells of a role are the" in said.stderr
        weights.append(saved_weights(out / "run"))
    assert weights[0] == weights[1]
