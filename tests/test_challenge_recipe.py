"""The recipe of the Virtual Cell Challenge runs, from training lines to a checked and scored submission."""

import json
import subprocess
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

RECIPE = Path(__file__).parents[1] / "recipes" / "challenge_vcc2026"
SIZES = {"CELLS": "2500", "GENES": "150", "TARGETS": "6", "STEPS": "24"}


@pytest.mark.slow
def test_the_recipe_goes_from_lines_to_a_scored_submission(tmp_path, environment):
    done = subprocess.run(
        [str(RECIPE / "run.sh"), "out"], cwd=tmp_path, env={**environment, **SIZES}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    submission, truth = ad.read_h5ad(out / "submission.h5ad"), ad.read_h5ad(out / "truth.h5ad")
    assert list(submission.var_names) == (out / "genes.txt").read_text().split()
    asked = pd.read_csv(out / "targets.csv", index_col="target")["cells"].to_dict()
    controls = int((truth.obs["perturbation"] == "control").sum())
    assert submission.obs["target"].value_counts().to_dict() == {**asked, "non-targeting": controls}
    values = submission.X.toarray()
    np.testing.assert_array_equal(values, np.rint(values))
    scores = json.loads((out / "challenge" / "metrics.json").read_text())
    assert (scores["protocol"], scores["genes"], len(scores["scored"]["context_5"])) == ("vcc2026", 150, 6)
    assert (out / "report" / "challenge.csv").is_file()
    for command in ("--format vcc2026", "--protocol vcc2026", "--engine vcc2026"):
        assert command in done.stdout
        assert command in (RECIPE / "README.md").read_text()
