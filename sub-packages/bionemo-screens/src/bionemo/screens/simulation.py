"""Simulate a perturbation screen with a known true effect: single-cell counts as AnnData.

The demo, the tests and the evaluation's reference experiment run on it, where no data can be downloaded. The model, per
cell and gene, logarithms natural::

    log rate = log library + log share(context, subpopulation, batch, cell) + log_fold_change(context, subpopulation, p)
    count ~ NegativeBinomial(mean=rate, dispersion(gene))

`share` sums to one over genes. It comes from a log-normal gene profile, gene modules that a context or a subpopulation
has switched on or off, a factor per gene and batch, and two sources of variation inside a subpopulation: the cell cycle
and a continuous state. What a perturbation does follows from these modules, as `simulated_truth` says; so it can be
learned from control cells, and cells of one context respond differently.

Every (context, batch) has cells of every perturbation label and three times as many control cells as cells of one
label. Rows are in random order. `obs` holds `context`, `perturbation` (with the label "control"), `batch` and
`subpopulation`. `X` is CSR, float32 and integer-valued. `uns["simulation"]` holds the sizes and the truth:

- `log_fold_change`, float32 [contexts, labels, subpopulations, genes]: natural-log change of the expected count, genes
  in the order of `var`. One perturbation (two from 16 on, none below 4) has no effect anywhere.
- `expected_shift`, of the same shape: expected log1p of counts scaled to 10,000, less that of control cells of the
  subpopulation. `expected_shift()` reads it.
- `subpopulation_share`, [contexts, subpopulations]: the expected share of each subpopulation, perturbed or not.
- `variance_shares`: the shares of the effects' variance that all states have in common (`common`), that follow from the
  state (`state`) and that nothing can learn (`independent`).
- `context_labels`, `perturbation_labels`, `subpopulation_labels`: the labels of these axes.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from h5py import File
from scipy.sparse import csr_matrix, vstack
from tqdm import tqdm

from bionemo.screens.errors import InputError, choices
from bionemo.screens.forgiving_file import ForgivingFile
from bionemo.screens.making import file_made_whole
from bionemo.screens.simulated_shift import LIBRARY_SPREAD, expected_shifts, rates
from bionemo.screens.simulated_truth import CONTROL_SHARE, COUNTS_PER_GENE, SimulationSize, draw_truth, numbered

CONTROL = "control"

_BLOCK_VALUES = 2_000_000  # cells x genes held dense at a time, 16 MB per array


def simulate(out: str | Path, *, progress: bool = True, **size: Any) -> Path:
    """Write a simulated screen as one h5ad file of raw counts.

    The same arguments give the same cells, bit for bit, on one machine. Memory does not grow with `cells`, except for
    the `obs` table.

    Parameters
    ----------
    out
        File to write; it ends in ".h5ad". An existing file is replaced once the new one is complete.
    progress
        Show a progress bar.
    **size
        Attributes of `SimulationSize`, such as cells, genes, contexts, perturbations, subpopulations and doses.

    Returns
    -------
    Path
        `out`; what it holds stands in the docstring of this module.

    Raises
    ------
    InputError
        `SimulationSize` refuses a size, or `out` cannot be written.
    """
    screen = _Drawing(SimulationSize(**size))
    out = Path(out)
    if out.suffix != ".h5ad" or os.path.isdir(out):
        raise InputError(f"{out} cannot be the simulated file: give the path of a file that ends in .h5ad")
    plan = screen.plan()
    cells, genes = len(plan), screen.size.genes
    try:
        with (
            file_made_whole(out) as new,
            ForgivingFile(new, "w+") as disk,
            File(disk, "w") as file,
            tqdm(total=cells, unit="cell", disable=not progress) as bar,
        ):
            write_elem(file, "/", screen.annotated(plan))
            file.pop("raw", None)  # an absent raw is written as a null, which earlier versions of AnnData cannot read
            for start, counts in screen.blocks(plan, stream=2):
                if start == 0:
                    # Later blocks take the index type of the first; scipy wants one type for both index arrays.
                    index = np.int32 if cells * genes <= np.iinfo(np.int32).max else np.int64
                    counts.indices, counts.indptr = counts.indices.astype(index), counts.indptr.astype(index)
                    del file["X"]
                    write_elem(file, "X", counts)
                else:
                    sparse_dataset(file["X"]).append(counts)  # pyright: ignore
                bar.update(counts.indptr.size - 1)
                disk.check()
            file.close()
            disk.check()
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror or error}): free space there or choose another path"
        ) from error
    return out


def draw_screen(**size: Any) -> AnnData:
    """Return the cells that `simulate` writes, in memory; parameters and errors are its own."""
    screen = _Drawing(SimulationSize(**size))
    return screen.drawn(screen.plan(), stream=2)


def draw_replicate(**size: Any) -> AnnData:
    """Return other cells of the same perturbed populations as `draw_screen`, in memory, without control cells.

    Which subpopulation a cell is of and what is counted in it is drawn again; truth and number of cells are the same.
    """
    screen = _Drawing(SimulationSize(**size))
    plan = screen.plan(stream=3)
    return screen.drawn(plan[plan["perturbation"] >= 0], stream=4)


def expected_shift(screen: AnnData, context: str, perturbation: str, subpopulation: str | None = None) -> np.ndarray:
    """Return the true shift of a simulated condition, log1p of counts scaled to 10,000, float32 [G].

    Parameters
    ----------
    screen
        What `simulate` or `draw_screen` made; only its `uns` is read, and genes are in the order of its `var` then.
    context, perturbation
        Labels of the condition.
    subpopulation
        A label of `obs["subpopulation"]`; without it the shift is that of the context's mixture.

    Raises
    ------
    InputError
        The screen was not simulated, or it has no such label.
    """
    try:
        truth = screen.uns["simulation"]
        shifts_KPUG, share_KU = truth["expected_shift"], truth["subpopulation_share"]
    except KeyError as error:
        raise InputError("the cells hold no simulated truth: read a file of `bionemo-scale simulate`") from error

    def place(axis: str, label: str) -> int:
        labels = list(truth[f"{axis}_labels"])
        if label not in labels:
            raise InputError(f"the simulated screen has no {axis} {label!r}: {choices(label, labels)}")
        return labels.index(label)

    k = place("context", context)
    shift_UG = shifts_KPUG[k, place("perturbation", perturbation)]
    return share_KU[k] @ shift_UG if subpopulation is None else shift_UG[place("subpopulation", subpopulation)]


def log1p_of(cells: AnnData, target_sum: float = 1e4) -> AnnData:
    """Return cells with log1p of their counts scaled to `target_sum`, float32 CSR."""
    counts = csr_matrix(cells.X, dtype=np.float64)
    total = np.asarray(counts.sum(axis=1)).ravel()
    counts.data *= np.repeat(target_sum / np.maximum(total, 1.0), np.diff(counts.indptr))
    np.log1p(counts.data, out=counts.data)
    logged = cells.copy()
    logged.X = csr_matrix(counts, dtype=np.float32)
    return logged


class _Drawing:
    """A `_Drawing` draws cells from one truth; a stream is a series of random numbers of its own."""

    def __init__(self, size: SimulationSize):
        self.size = size
        self.truth = draw_truth(size, self._rng(0))

    def plan(self, stream: int = 1) -> np.ndarray:
        """Give every cell its condition and subpopulation, in random order; perturbation -1 is the control."""
        size, rng = self.size, self._rng(stream)
        weights = np.ones((size.contexts, size.batches, size.labels + 1))
        weights[..., 0] = CONTROL_SHARE
        ends = np.floor(np.cumsum(weights) / weights.sum() * size.cells + 0.5).astype(int)
        condition = rng.permutation(np.repeat(np.arange(weights.size), np.diff(ends, prepend=0)))
        context, batch, perturbation = np.unravel_index(condition, weights.shape)
        plan = np.empty(
            size.cells, dtype=[(name, "i4") for name in ("context", "perturbation", "batch", "subpopulation")]
        )
        plan["context"], plan["batch"], plan["perturbation"] = context, batch, perturbation - 1
        upper_KU = np.cumsum(self.truth.share, axis=1)[:, :-1]
        plan["subpopulation"] = (rng.random((size.cells, 1)) > upper_KU[context]).sum(axis=1)
        return plan

    def blocks(self, plan: np.ndarray, stream: int) -> Iterator[tuple[int, csr_matrix]]:
        """Yield the first row and the counts, float32 [cells, G], of one block of cells after the other."""
        step = max(1, _BLOCK_VALUES // self.size.genes)
        for number, start in enumerate(range(0, len(plan), step)):
            yield start, self._counts(plan[start : start + step], self._rng(stream, number))

    def drawn(self, plan: np.ndarray, stream: int) -> AnnData:
        """Return cells with their counts."""
        cells = self.annotated(plan)
        cells.X = csr_matrix(vstack([counts for _, counts in self.blocks(plan, stream)], format="csr"))
        return cells

    def annotated(self, plan: np.ndarray) -> AnnData:
        """Return cells without counts, their labels in obs and the truth in uns."""
        size, truth = self.size, self.truth
        labels = {
            "context": numbered("context", size.contexts),
            "perturbation": truth.treatments.names,
            "batch": numbered("batch", size.batches),
            "subpopulation": numbered("subpopulation", size.subpopulations),
        }
        obs = pd.DataFrame(
            {
                "context": pd.Categorical.from_codes(plan["context"], labels["context"]),
                "perturbation": pd.Categorical.from_codes(plan["perturbation"] + 1, [CONTROL, *labels["perturbation"]]),
                "batch": pd.Categorical.from_codes(plan["batch"], labels["batch"]),
                "subpopulation": pd.Categorical.from_codes(plan["subpopulation"], labels["subpopulation"]),
            },
            index=pd.Index(numbered("cell", len(plan))),
        )
        simulation = asdict(size) | {
            "log_fold_change": self.log_fold_changes(),
            "expected_shift": expected_shifts(size, truth, self._rng(5)),
            "subpopulation_share": truth.share,
            "variance_shares": truth.variance_shares(),
            **{f"{axis}_labels": np.array(names) for axis, names in labels.items() if axis != "batch"},
        }
        empty = csr_matrix((len(plan), size.genes), dtype=np.float32)
        genes = pd.DataFrame(index=pd.Index(numbered("gene", size.genes)))
        return AnnData(empty, obs, genes, uns={"simulation": simulation})

    def log_fold_changes(self) -> np.ndarray:
        """Return the effect of every condition and subpopulation, float32 [K, P, U, G]."""
        size = self.size
        effects = np.zeros((size.contexts, size.labels, size.subpopulations, size.genes), dtype=np.float32)
        label, subpopulation = (axis.ravel() for axis in np.indices(effects.shape[1:3]))
        for context, effect_PUG in enumerate(effects):
            effect_PUG[label, subpopulation] = self.truth.effect(np.full_like(label, context), subpopulation, label)
        return effects

    def _counts(self, block: np.ndarray, rng: np.random.Generator) -> csr_matrix:
        truth, n_cells = self.truth, len(block)
        rate = rates(
            truth,
            block["context"],
            block["subpopulation"],
            block["batch"],
            phase=rng.uniform(0, 2 * np.pi, n_cells),
            state=rng.normal(size=n_cells),
            library=COUNTS_PER_GENE * self.size.genes * rng.lognormal(0.0, LIBRARY_SPREAD, n_cells),
        )
        # The effect comes after the shares are taken: the fold change of the expected count is exactly the truth.
        perturbed = np.flatnonzero(block["perturbation"] >= 0)
        conditions, of = np.unique(block[perturbed][["context", "subpopulation", "perturbation"]], return_inverse=True)
        factor = np.exp(truth.effect(conditions["context"], conditions["subpopulation"], conditions["perturbation"]))
        rate[perturbed] *= factor[of]
        shape = 1 / truth.dispersion
        return csr_matrix(rng.poisson(rate * rng.gamma(shape, 1 / shape, rate.shape)), dtype=np.float32)

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.size.seed, *stream])
