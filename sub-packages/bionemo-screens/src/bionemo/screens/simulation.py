"""Simulate a perturbation screen with a known true effect: single-cell counts as AnnData.

The demo, the tests and the evaluation's reference experiment run on it, where no data can be downloaded. The model, per
cell and gene, logarithms natural::

    log rate = log library + log share(context, batch, cell) + responder * log_fold_change(context, perturbation)
    count ~ NegativeBinomial(mean=rate, dispersion(gene))

`share` sums to one over genes. It comes from a log-normal gene profile, gene modules that a context has switched on or
off, a factor per gene and batch, and two sources of variation inside a population: the cell cycle and a continuous
state. An effect is sparse over genes: a few target genes of the perturbation and the modules of its mechanism family.
It mixes a part that all contexts share with a part of one context, both of unit size, so that the effects of one
perturbation in two contexts have the correlation `shared` on average.

Every (context, batch) has cells of every perturbation and three times as many control cells as cells of one
perturbation. Rows are in random order. `obs` holds `context`, `perturbation` (with the label "control"), `batch` and
`responder`. `X` is CSR, float32 and integer-valued. `uns["simulation"]` holds the sizes and the truth:

- `log_fold_change`, float32 [contexts, perturbations, genes]: natural-log change of a responder's expected count, genes
  in the order of `var`. One perturbation (two from 16 on, none below 4) has no effect anywhere.
- `responder_fraction`, float32 [contexts, perturbations]: the expected share of responders, 0 without an effect.
- `context_labels`, `perturbation_labels`: the labels of these axes.
"""

import contextlib
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

from bionemo.screens.errors import InputError
from bionemo.screens.forgiving_file import ForgivingFile
from bionemo.screens.simulated_truth import CONTROL_SHARE, COUNTS_PER_GENE, SimulationSize, draw_truth, softmax

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
        Attributes of `SimulationSize`: cells, genes, contexts, perturbations, batches, seed, shared, responders.

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
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            ForgivingFile(partial, "w+") as disk,
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
        disk.check()
        os.replace(partial, out)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror or error}): free space there or choose another path"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return out


def draw_screen(**size: Any) -> AnnData:
    """Return the cells that `simulate` writes, in memory; parameters and errors are its own."""
    screen = _Drawing(SimulationSize(**size))
    return screen.drawn(screen.plan(), stream=2)


def draw_replicate(**size: Any) -> AnnData:
    """Return other cells of the same perturbed populations as `draw_screen`, in memory, without control cells.

    Which cells respond and what is counted in them is drawn again; the truth and the number of cells are the same.
    """
    screen = _Drawing(SimulationSize(**size))
    plan = screen.plan(stream=3)
    return screen.drawn(plan[plan["perturbation"] >= 0], stream=4)


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
        """Give every cell its condition and whether it responds, in random order; perturbation -1 is the control."""
        size, rng = self.size, self._rng(stream)
        weights = np.ones((size.contexts, size.batches, size.perturbations + 1))
        weights[..., 0] = CONTROL_SHARE
        ends = np.floor(np.cumsum(weights) / weights.sum() * size.cells + 0.5).astype(int)
        condition = rng.permutation(np.repeat(np.arange(weights.size), np.diff(ends, prepend=0)))
        context, batch, perturbation = np.unravel_index(condition, weights.shape)
        fields = [("context", "i4"), ("perturbation", "i4"), ("batch", "i4"), ("responder", "?")]
        plan = np.empty(size.cells, dtype=fields)
        plan["context"], plan["batch"], plan["perturbation"] = context, batch, perturbation - 1
        chance = np.where(perturbation == 0, 0.0, self.truth.fraction[context, perturbation - 1])
        plan["responder"] = rng.random(size.cells) < chance
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
        contexts, batches = _names("context", size.contexts), _names("batch", size.batches)
        perturbations = _names("perturbation", size.perturbations)
        obs = pd.DataFrame(
            {
                "context": pd.Categorical.from_codes(plan["context"], contexts),
                "perturbation": pd.Categorical.from_codes(plan["perturbation"] + 1, [CONTROL, *perturbations]),
                "batch": pd.Categorical.from_codes(plan["batch"], batches),
                "responder": plan["responder"],
            },
            index=pd.Index(_names("cell", len(plan))),
        )
        simulation = asdict(size) | {
            "log_fold_change": truth.effect.astype(np.float32),
            "responder_fraction": truth.fraction.astype(np.float32),
            "context_labels": np.array(contexts),
            "perturbation_labels": np.array(perturbations),
        }
        empty = csr_matrix((len(plan), size.genes), dtype=np.float32)
        genes = pd.DataFrame(index=pd.Index(_names("gene", size.genes)))
        return AnnData(empty, obs, genes, uns={"simulation": simulation})

    def _counts(self, block: np.ndarray, rng: np.random.Generator) -> csr_matrix:
        truth, context, n_cells = self.truth, block["context"], len(block)
        phase = rng.uniform(0, 2 * np.pi, n_cells)
        state = rng.normal(size=(n_cells, 1))
        logits = truth.baseline[context] + truth.batch[block["batch"]] + state * truth.state[context]
        logits += np.stack([np.cos(phase), np.sin(phase)], axis=1) @ truth.cycle
        library = COUNTS_PER_GENE * self.size.genes * rng.lognormal(0.0, 0.35, (n_cells, 1))
        rate = library * softmax(logits)
        # The effect comes after the shares are taken: the fold change of a responder's expected count is exactly the
        # truth.
        responds = block["responder"]
        rate[responds] *= np.exp(truth.effect[context[responds], block["perturbation"][responds]])
        shape = 1 / truth.dispersion
        return csr_matrix(rng.poisson(rate * rng.gamma(shape, 1 / shape, rate.shape)), dtype=np.float32)

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.size.seed, *stream])


def _names(prefix: str, count: int) -> list[str]:
    """Number labels from one, padded so that they sort."""
    return [f"{prefix}_{number:0{len(str(count))}d}" for number in range(1, count + 1)]
