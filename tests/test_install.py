"""The evaluation and the store install alone, each with the ground floor, and do their work there."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
FOREIGN = ("megatron", "nemo", "nemo_run", "lightning")

SCORE = """\
import anndata as ad, numpy as np, pandas as pd
rng = np.random.default_rng(0)
labels = [(line, gene) for line in "AB" for gene in ("control", "x", "y") for _ in range(60)]
obs = pd.DataFrame(labels, columns=["line", "gene"], index=[f"cell{i}" for i in range(360)])
observed = ad.AnnData(rng.poisson(np.exp(rng.normal(size=(360, 50)))).astype("float32"), obs=obs)
predicted = observed[(obs["line"] == "A") & (obs["gene"] != "control")].copy()
predicted.X = np.log1p(predicted.X / predicted.X.sum(axis=1, keepdims=True) * 1e4)
predicted.write_h5ad("predicted.h5ad")
observed.write_h5ad("screen.h5ad")
"""
STORE = """\
from bionemo.cellsets import CellStore, prepare
from bionemo.screens.simulation import simulate
simulate("screen.h5ad", cells=600, genes=60, contexts=2, perturbations=3, batches=1)
prepare(
    ["screen.h5ad"], "store", perturbation_key="perturbation", control="control", context_key="context", n_genes=None
)
print(CellStore.open("store").read(range(5)).shape)
"""


@pytest.fixture
def alone(tmp_path):
    """Install packages of the tree into a fresh environment, and run its programs in an empty folder."""
    python = tmp_path / "environment" / "bin" / "python"
    clean = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONNOUSERSITE": "1"}

    def run(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command], cwd=tmp_path, env=clean, capture_output=True, text=True)

    def install(*names: str):
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        # It installs from copies, since setuptools builds beside the sources.
        folders = [tmp_path / f"bionemo-{name}" for name in names]
        for folder in folders:
            shutil.copytree(ROOT / "sub-packages" / folder.name, folder, ignore=shutil.ignore_patterns("*.egg-info"))
        pins = ["-c", str(ROOT / "constraints" / "cpu.txt")]
        # pip's own settings (an index, a cache) are those of this machine, so its environment is.
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", *folders, *pins], capture_output=True, text=True, cwd=tmp_path
        )
        if done.returncode and "No matching distribution found" in done.stderr:
            pytest.skip(f"pip finds no index here: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr[-2000:]
        return run

    return install


def has(run, *modules: str) -> list[str]:
    """Which of the modules the environment has."""
    code = f"import importlib.util as u; print(*(m for m in {modules!r} if u.find_spec(m)))"
    return run("python", "-c", code).stdout.split()


def test_the_evaluation_alone_scores_two_files(alone, tmp_path):
    run = alone("screens", "perteval")
    assert not has(run, "torch", *FOREIGN)
    made = run("python", "-c", SCORE)
    assert made.returncode == 0, made.stderr[-2000:]
    given = ("--perturbation-key", "gene", "--context-key", "line", "--control", "control", "--target-sum", "10000")
    files = ("--predicted", "predicted.h5ad", "--observed", "screen.h5ad", "--out", "report")
    done = run("perteval", "evaluate", *files, *given)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "PDCorr" in (tmp_path / "report" / "metrics.json").read_text()


def test_the_store_alone_is_made_and_read(alone):
    run = alone("screens", "cellsets")
    assert not has(run, *FOREIGN, "bionemo.perteval", "bionemo.scale")
    done = run("python", "-c", STORE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("(5, 60)")
