"""A simulated screen whose truth is known: for the reference experiment, the benchmark and the tests."""

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

CONTROL = "control"


def simulate(
    *,
    cells: int,
    controls: int,
    perturbations: int,
    genes: int,
    contexts: int = 1,
    shared: float = 0.3,
    affected: float = 0.1,
    strength: float = 1.0,
    depth: float = -2.0,
    replicate: bool = True,
    seed: int = 0,
) -> tuple[ad.AnnData, ad.AnnData]:
    """Draw a screen and an independent replicate of its perturbed cells.

    Counts are gamma-Poisson (shape 4) with lognormal library sizes (sigma 0.3). A perturbation adds to the log rates of
    `affected` of the genes a normal shift of its own and `shared` times one that all perturbations have, the same in
    every context; contexts differ in their base rates.

    Parameters
    ----------
    cells, controls
        Cells of each perturbation, and control cells, of each context.
    perturbations, genes, contexts
        How many.
    shared
        Size of the common shift, in units of `strength`.
    affected
        Share of the genes that each shift touches.
    strength
        Standard deviation of the shifts, in log rate.
    depth
        Mean log rate of a gene.
    replicate
        Whether the replicate is drawn; without it, it is the screen's own perturbed cells.
    seed
        Of the draw.

    Returns
    -------
    screen, replicate : AnnData
        Counts, CSR float32; ``obs`` has context and perturbation. The replicate has no control cells.
    """
    rng = np.random.default_rng(seed)
    names = [CONTROL, *(f"p{i:03d}" for i in range(perturbations))]

    def shift() -> np.ndarray:
        return strength * rng.normal(size=genes) * (rng.random(genes) < affected)

    common = shared * shift()
    shifts = {CONTROL: np.zeros(genes)} | {name: common + shift() for name in names[1:]}
    drawn: list[list[sp.csr_matrix]] = [[], []]
    labels: list[list[tuple[str, str]]] = [[], []]
    for context in (f"c{i}" for i in range(contexts)):
        base = rng.normal(depth, 1.3, genes)
        for name in names:
            size = controls if name == CONTROL else cells
            for which in range(1 if name == CONTROL or not replicate else 2):
                library = rng.lognormal(0.0, 0.3, (size, 1))
                rates = np.exp(base + shifts[name]) * library * rng.standard_gamma(4.0, (size, genes)) / 4.0
                drawn[which].append(sp.csr_matrix(rng.poisson(rates), dtype=np.float32))
                labels[which] += [(context, name)] * size
    screen = _cells(drawn[0], labels[0], genes)
    if not replicate:
        return screen, screen[(screen.obs["perturbation"] != CONTROL).to_numpy()]
    return screen, _cells(drawn[1], labels[1], genes)


def log1p_of(cells: ad.AnnData, target_sum: float = 1e4) -> ad.AnnData:
    """Return log1p of the counts scaled to `target_sum`."""
    counts = sp.csr_matrix(cells.X, dtype=np.float64)
    total = np.asarray(counts.sum(axis=1)).ravel()
    counts.data *= np.repeat(target_sum / np.maximum(total, 1.0), np.diff(counts.indptr))
    np.log1p(counts.data, out=counts.data)
    logged = cells.copy()
    logged.X = sp.csr_matrix(counts, dtype=np.float32)
    return logged


def _cells(blocks: list[sp.csr_matrix], labels: list[tuple[str, str]], genes: int) -> ad.AnnData:
    obs = pd.DataFrame(labels, columns=pd.Index(["context", "perturbation"])).rename(index="cell{}".format)
    var = pd.DataFrame(index=pd.Index([f"gene{i}" for i in range(genes)]))
    return ad.AnnData(sp.csr_matrix(sp.vstack(blocks, format="csr")), obs=obs, var=var)
