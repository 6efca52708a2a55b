"""Small simulated screens: three contexts, five perturbations, 120 genes, negative-binomial counts."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

TARGET_SUM = 1e4
SCORED = [("A", "p1"), ("A", "p2"), ("A", "p3"), ("B", "p2")]


@pytest.fixture(scope="session")
def counts() -> ad.AnnData:
    """Counts of all cells: contexts A, B, C; control and p1..p5 (p5 in A only); 40 to 70 cells per condition."""
    rng = np.random.default_rng(1)
    genes = 120
    base = rng.normal(-0.5, 1.2, genes)
    programs = {context: base + 0.5 * rng.normal(size=genes) for context in "ABC"}
    effects = {f"p{i}": rng.normal(size=genes) * (rng.random(genes) < 0.25) for i in range(1, 6)}
    cells, contexts, perturbations = [], [], []
    for context in "ABC":
        for place, name in enumerate(["ctrl", *effects]):
            if name == "p5" and context != "A":
                continue
            n = 120 if name == "ctrl" else 40 + 5 * place
            shift = effects.get(name, 0.0) + (0.3 * rng.normal(size=genes) if name != "ctrl" else 0.0)
            rate = np.exp(programs[context] + shift) * rng.lognormal(0, 0.3, (n, 1))
            cells.append(rng.poisson(rate * rng.gamma(4.0, 0.25, (n, genes))))
            contexts += [context] * n
            perturbations += [name] * n
    obs = pd.DataFrame({"line": contexts, "gene": perturbations}, index=[f"cell{i}" for i in range(len(contexts))])
    var = pd.DataFrame(index=[f"g{i}" for i in range(genes)])
    return ad.AnnData(sp.csr_matrix(np.concatenate(cells), dtype=np.float32), obs=obs, var=var)


@pytest.fixture(scope="session")
def log1p(counts) -> ad.AnnData:
    """The same cells, normalised and log1p, as a reader would write it by hand."""
    dense = counts.X.toarray().astype(np.float64)
    dense = np.log1p(dense / dense.sum(axis=1, keepdims=True) * TARGET_SUM)
    return ad.AnnData(sp.csr_matrix(dense, dtype=np.float32), obs=counts.obs.copy(), var=counts.var.copy())


@pytest.fixture(scope="session")
def scored_rows(counts) -> np.ndarray:
    """Rows of the scored conditions."""
    pairs = list(zip(counts.obs["line"], counts.obs["gene"], strict=True))
    return np.flatnonzero([pair in SCORED for pair in pairs])


@pytest.fixture(scope="session")
def stated() -> dict:
    """What a prediction says about itself."""
    return {
        "perturbation_key": "gene",
        "context_key": "line",
        "control": "ctrl",
        "target_sum": TARGET_SUM,
        "layer": "",
        "input_kind": "counts",
    }


@pytest.fixture
def perfect(log1p, scored_rows, stated) -> ad.AnnData:
    """A prediction that is the observed cells."""
    prediction = log1p[scored_rows].copy()
    prediction.uns["prediction"] = dict(stated)
    return prediction


@pytest.fixture(scope="session")
def noisy(log1p, scored_rows, stated) -> ad.AnnData:
    """A prediction that is wrong in a known way: the cells of the same perturbations in context C."""
    rng = np.random.default_rng(2)
    labels = log1p.obs.iloc[scored_rows]
    rows = [
        rng.choice(np.flatnonzero((log1p.obs["line"] == "C") & (log1p.obs["gene"] == gene))) for gene in labels["gene"]
    ]
    prediction = ad.AnnData(log1p.X[rows].copy(), obs=labels.copy(), var=log1p.var.copy())
    prediction.uns["prediction"] = dict(stated)
    return prediction


@pytest.fixture(scope="session")
def evaluation(noisy, counts):
    """The evaluation of the noisy prediction, held-out (C, p1) apart."""
    from bionemo.perteval import evaluate

    return evaluate(noisy, counts, held_out=[("C", "p1")], threads=1, progress=False)
