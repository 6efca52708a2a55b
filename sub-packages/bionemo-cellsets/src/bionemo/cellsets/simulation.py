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
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from h5py import File
from scipy.sparse import csr_matrix
from tqdm import tqdm

from bionemo.cellsets.errors import InputError
from bionemo.cellsets.forgiving_file import ForgivingFile

CONTROL = "control"
CONTROL_SHARE = 3  # cells of the control group for each cell of a perturbation
MINIMUM_GENES = 20  # below that, modules and targets have no genes to act on

_COUNTS_PER_GENE = 1.2  # median library size divided by the number of genes
_BLOCK_VALUES = 2_000_000  # cells x genes held dense at a time, 16 MB per array


@dataclass(frozen=True, kw_only=True)
class _Size:
    """The sizes and shares that a simulation is made from."""

    cells: int
    genes: int
    contexts: int
    perturbations: int
    batches: int
    seed: int
    shared: float
    responders: float

    def __post_init__(self):
        for name in ("cells", "contexts", "perturbations", "batches"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name} is {value}: ask for at least 1")
        if self.genes < MINIMUM_GENES:
            raise InputError(f"genes is {self.genes}: ask for at least {MINIMUM_GENES}")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: give a whole number of 0 or more")
        if not 0 <= self.shared <= 1:
            raise InputError(f"shared is {self.shared}: give a share between 0 and 1")
        if not 0 < self.responders <= 1:
            raise InputError(f"responders is {self.responders}: give a share above 0 and at most 1")
        groups = self.contexts * self.batches
        if self.cells < (needed := groups * (self.perturbations + CONTROL_SHARE)):
            raise InputError(
                f"cells is {self.cells}, too few for {groups * (self.perturbations + 1)} conditions: ask for at least "
                f"{needed}, or for fewer contexts, perturbations or batches"
            )


@dataclass(frozen=True, kw_only=True)
class _Truth:
    """What the cells are drawn from. K contexts, P perturbations, N batches, G genes; logarithms are natural."""

    baseline: np.ndarray  # [K, G] log rate up to a constant per context
    batch: np.ndarray  # [N, G] log factor
    cycle: np.ndarray  # [2, G] loadings on the cosine and sine of a cell's phase
    state: np.ndarray  # [K, G] loadings on a cell's continuous state
    effect: np.ndarray  # [K, P, G] log fold change of responders
    fraction: np.ndarray  # [K, P] expected share of responders
    dispersion: np.ndarray  # [G] alpha of variance = mean + alpha * mean^2


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
    size = _Size(
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
    truth = _draw_truth(size, np.random.default_rng([seed, 0]))
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


def _draw_truth(size: _Size, rng: np.random.Generator) -> _Truth:
    """Draw the profiles, programs and effects of a screen."""
    n_modules = max(4, min(20, size.genes // 40))
    # Most genes belong to one module; the last column collects those that belong to none.
    member = rng.integers(0, round(n_modules * 1.4), size.genes)
    loading = rng.uniform(0.5, 1.5, size.genes)
    modules = np.where(member == np.arange(n_modules)[:, None], loading, 0.0)  # [modules, G]

    profile = rng.normal(0.0, 1.9, size.genes)
    activity = rng.choice([-1.0, 0.0, 1.0], p=[0.25, 0.5, 0.25], size=(size.contexts, n_modules))
    baseline = profile + activity @ modules + rng.normal(0.0, 0.2, (size.contexts, size.genes))

    phase = rng.uniform(0, 2 * np.pi, size.genes)
    cycling = np.where(rng.random(size.genes) < 0.1, rng.uniform(0.4, 1.2, size.genes), 0.0)
    cycle = cycling * np.stack([np.cos(phase), np.sin(phase)])
    state = rng.normal(0.0, 0.35, (size.contexts, n_modules)) @ modules

    mean = _COUNTS_PER_GENE * size.genes * _softmax(profile)
    # Dispersion falls with the mean, towards a floor, and scatters around that trend.
    dispersion = (0.15 + 0.3 / np.sqrt(mean)) * rng.lognormal(0.0, 0.2, size.genes)
    effect, active = _draw_effects(size, modules, rng)
    fraction = np.full((size.contexts, size.perturbations), float(size.responders))
    if size.responders < 1:
        concentration = 30.0
        fraction = rng.beta(concentration * size.responders, concentration * (1 - size.responders), fraction.shape)
    return _Truth(
        baseline=baseline,
        batch=rng.normal(0.0, 0.1, (size.batches, size.genes)),
        cycle=cycle,
        state=state,
        effect=effect,
        fraction=fraction * active,
        dispersion=dispersion,
    )


def _draw_effects(size: _Size, modules: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw log fold changes [K, P, G], and which perturbations [P] have any effect."""
    n_families = max(1, round(size.perturbations / 3))
    family = rng.permutation(np.arange(size.perturbations) % n_families)

    def part() -> np.ndarray:
        """One unit-size effect per perturbation [P, G], alike within a family."""
        weights = np.zeros((n_families, len(modules)))
        for row in weights:
            row[rng.choice(len(modules), 2, replace=False)] = rng.choice([-1.0, 1.0], 2) * rng.uniform(0.7, 1.3, 2)
        targets = np.zeros((size.perturbations, size.genes))
        for row in targets:
            chosen = rng.choice(size.genes, max(2, round(0.03 * size.genes)), replace=False)
            row[chosen] = rng.choice([-1.0, 1.0], len(chosen)) * rng.uniform(0.5, 1.5, len(chosen))
        return _unit(np.sqrt(0.6) * _unit((weights @ modules)[family]) + np.sqrt(0.4) * _unit(targets))

    common = part()
    own = np.stack([part() for _ in range(size.contexts)])
    # Evenly spread strengths in random order: every seed has weak and strong perturbations.
    strength = rng.permutation(np.geomspace(0.15, 0.45, size.perturbations))
    n_null = 0 if size.perturbations < 4 else 1 if size.perturbations < 16 else 2
    active = np.ones(size.perturbations, dtype=bool)
    active[rng.choice(size.perturbations, n_null, replace=False)] = False
    effect = np.sqrt(size.shared) * common + np.sqrt(1 - size.shared) * own
    return (strength * active)[:, None] * effect, active


def _draw_plan(size: _Size, truth: _Truth, rng: np.random.Generator) -> np.ndarray:
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


def _draw_counts(size: _Size, truth: _Truth, block: np.ndarray, rng: np.random.Generator) -> csr_matrix:
    """Draw the counts of a block of cells, float32 [len(block), G]."""
    context, n_cells = block["context"], len(block)
    phase = rng.uniform(0, 2 * np.pi, n_cells)
    state = rng.normal(size=(n_cells, 1))
    logits = truth.baseline[context] + truth.batch[block["batch"]] + state * truth.state[context]
    logits += np.stack([np.cos(phase), np.sin(phase)], axis=1) @ truth.cycle
    library = _COUNTS_PER_GENE * size.genes * rng.lognormal(0.0, 0.35, (n_cells, 1))
    rate = library * _softmax(logits)
    # The effect comes after the shares are taken: the fold change of a responder's expected count is exactly the truth.
    responds = block["responder"]
    rate[responds] *= np.exp(truth.effect[context[responds], block["perturbation"][responds]])
    shape = 1 / truth.dispersion
    return csr_matrix(rng.poisson(rate * rng.gamma(shape, 1 / shape, rate.shape)), dtype=np.float32)


def _annotate(size: _Size, truth: _Truth, plan: np.ndarray) -> AnnData:
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


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Shares over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _unit(effect: np.ndarray) -> np.ndarray:
    """Scale each row to root mean square 1; a row of zeros (a module without genes) stays."""
    size = np.sqrt((effect**2).mean(axis=-1, keepdims=True))
    return effect / np.where(size > 0, size, 1.0)
