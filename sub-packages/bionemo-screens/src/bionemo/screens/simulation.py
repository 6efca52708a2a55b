"""A simulated perturbation screen with a known true effect: single-cell counts as AnnData.

The demo and the tests run on it, where no data can be downloaded. The model, per cell and gene, logarithms natural::

    log rate = log library + log share(context, batch, cell) + responder * log_fold_change(context, perturbation)
    count ~ NegativeBinomial(mean=rate, dispersion(gene))

`share` sums to one over genes. It comes from a log-normal gene profile, gene modules that a context has switched on or
off, a factor per gene and batch, and two sources of variation inside a population: the cell cycle and a continuous
state. An effect is sparse over genes: a few target genes of the perturbation and the modules of its mechanism family.
It mixes a part that all contexts share with a part of one context, both of unit size, so that the effects of one
perturbation in two contexts have the correlation `shared` on average.
"""

import contextlib
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from h5py import File
from scipy.sparse import csr_matrix
from tqdm import tqdm

from bionemo.screens.errors import InputError
from bionemo.screens.forgiving_file import ForgivingFile
from bionemo.screens.simulated_truth import CONTROL_SHARE, COUNTS_PER_GENE, SimulationSize, Truth, draw_truth, softmax

CONTROL = "control"

_BLOCK_VALUES = 2_000_000  # cells x genes held dense at a time, 16 MB per array


def simulate(
    out: Path,
    *,
    cells: int = 20_000,
    genes: int = 1000,
    contexts: int = 4,
    perturbations: int = 12,
    batches: int = 2,
    seed: int = 0,
    shared: float = 0.6,
    responders: float = 0.75,
    progress: bool = True,
) -> Path:
    """Write a simulated screen as one h5ad file of raw counts.

    Every (context, batch) has cells of every perturbation and three times as many control cells as cells of one
    perturbation. Rows are in random order. `obs` holds `context`, `perturbation` (with the label "control"), `batch`
    and `responder`. `X` is CSR, float32 and integer-valued. `uns["simulation"]` holds the arguments and the truth:

    - `log_fold_change`, float32 [contexts, perturbations, genes]: natural-log change of a responder's expected count,
      genes in the order of `var`. One perturbation (two from 16 on, none below 4) has no effect anywhere.
    - `responder_fraction`, float32 [contexts, perturbations]: the expected share of responders, 0 without an effect.
    - `context_labels`, `perturbation_labels`: the labels of these axes.

    The same arguments give the same cells, bit for bit, on one machine. Memory does not grow with `cells`, except for
    the `obs` table.

    Parameters
    ----------
    out
        File to write; it ends in ".h5ad". An existing file is replaced once the new one is complete.
    cells
        Number of cells over all conditions.
    genes
        Number of genes. The median library is 1.2 times as large.
    contexts, perturbations, batches
        Number of contexts, of perturbations beside the control, and of batches.
    seed
        Seed of every random number.
    shared
        Share of an effect's variance over genes that all contexts have in common, 0 to 1.
    responders
        Expected share of a population that responds to a perturbation with an effect, above 0 and at most 1. The
        conditions scatter around it, except at 1.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        A size or share out of its range, fewer cells than the conditions need, or an `out` that cannot be written.
    """
    size = SimulationSize(
        cells=cells,
        genes=genes,
        contexts=contexts,
        perturbations=perturbations,
        batches=batches,
        seed=seed,
        shared=shared,
        responders=responders,
    )
    out = Path(out)
    if out.suffix != ".h5ad" or os.path.isdir(out):
        raise InputError(f"{out} cannot be the simulated file: give the path of a file that ends in .h5ad")
    truth = draw_truth(size, np.random.default_rng([seed, 0]))
    plan = _draw_plan(size, truth, np.random.default_rng([seed, 1]))
    annotations = _annotate(size, truth, plan)

    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            ForgivingFile(partial, "w+") as disk,
            File(disk, "w") as file,
            tqdm(total=cells, unit="cell", disable=not progress) as bar,
        ):
            write_elem(file, "/", annotations)
            file.pop("raw", None)  # an absent raw is written as a null, which earlier versions of AnnData cannot read
            step = max(1, _BLOCK_VALUES // genes)
            for number, start in enumerate(range(0, cells, step)):
                block = plan[start : start + step]
                counts = _draw_counts(size, truth, block, np.random.default_rng([seed, 2, number]))
                if start == 0:
                    # Later blocks take the index type of the first; scipy wants one type for both index arrays.
                    index = np.int32 if cells * genes <= np.iinfo(np.int32).max else np.int64
                    counts.indices, counts.indptr = counts.indices.astype(index), counts.indptr.astype(index)
                    del file["X"]
                    write_elem(file, "X", counts)
                else:
                    sparse_dataset(file["X"]).append(counts)  # pyright: ignore
                bar.update(len(block))
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


def _draw_plan(size: SimulationSize, truth: Truth, rng: np.random.Generator) -> np.ndarray:
    """Give every cell its condition and whether it responds, in random order; perturbation -1 is the control."""
    weights = np.ones((size.contexts, size.batches, size.perturbations + 1))
    weights[..., 0] = CONTROL_SHARE
    ends = np.floor(np.cumsum(weights) / weights.sum() * size.cells + 0.5).astype(int)
    condition = rng.permutation(np.repeat(np.arange(weights.size), np.diff(ends, prepend=0)))
    context, batch, perturbation = np.unravel_index(condition, weights.shape)
    fields = [("context", "i4"), ("perturbation", "i4"), ("batch", "i4"), ("responder", "?")]
    plan = np.empty(size.cells, dtype=fields)
    plan["context"], plan["batch"], plan["perturbation"] = context, batch, perturbation - 1
    chance = np.where(perturbation == 0, 0.0, truth.fraction[context, perturbation - 1])
    plan["responder"] = rng.random(size.cells) < chance
    return plan


def _draw_counts(size: SimulationSize, truth: Truth, block: np.ndarray, rng: np.random.Generator) -> csr_matrix:
    """Draw the counts of a block of cells, float32 [len(block), G]."""
    context, n_cells = block["context"], len(block)
    phase = rng.uniform(0, 2 * np.pi, n_cells)
    state = rng.normal(size=(n_cells, 1))
    logits = truth.baseline[context] + truth.batch[block["batch"]] + state * truth.state[context]
    logits += np.stack([np.cos(phase), np.sin(phase)], axis=1) @ truth.cycle
    library = COUNTS_PER_GENE * size.genes * rng.lognormal(0.0, 0.35, (n_cells, 1))
    rate = library * softmax(logits)
    # The effect comes after the shares are taken: the fold change of a responder's expected count is exactly the truth.
    responds = block["responder"]
    rate[responds] *= np.exp(truth.effect[context[responds], block["perturbation"][responds]])
    shape = 1 / truth.dispersion
    return csr_matrix(rng.poisson(rate * rng.gamma(shape, 1 / shape, rate.shape)), dtype=np.float32)


def _annotate(size: SimulationSize, truth: Truth, plan: np.ndarray) -> AnnData:
    """Make the AnnData of the screen, its X still empty."""
    contexts, batches = _names("context", size.contexts), _names("batch", size.batches)
    perturbations = _names("perturbation", size.perturbations)
    obs = pd.DataFrame(
        {
            "context": pd.Categorical.from_codes(plan["context"], contexts),
            "perturbation": pd.Categorical.from_codes(plan["perturbation"] + 1, [CONTROL, *perturbations]),
            "batch": pd.Categorical.from_codes(plan["batch"], batches),
            "responder": plan["responder"],
        },
        index=pd.Index(_names("cell", size.cells)),
    )
    simulation = asdict(size) | {
        "log_fold_change": truth.effect.astype(np.float32),
        "responder_fraction": truth.fraction.astype(np.float32),
        "context_labels": np.array(contexts),
        "perturbation_labels": np.array(perturbations),
    }
    empty = csr_matrix((size.cells, size.genes), dtype=np.float32)
    return AnnData(empty, obs, pd.DataFrame(index=pd.Index(_names("gene", size.genes))), uns={"simulation": simulation})


def _names(prefix: str, count: int) -> list[str]:
    """Number labels from one, padded so that they sort."""
    return [f"{prefix}_{number:0{len(str(count))}d}" for number in range(1, count + 1)]
