"""Time a trained model that stays loaded: one condition at a time, and very many; and the same of its export."""

import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import bionemo.scale as scale
from bionemo.bench.harness.machine import machine_facts
from bionemo.bench.harness.report import Result, described
from bionemo.scale.inference.trained_model import Start
from bionemo.scale.runs import scale_portable
from bionemo.scale.runs.export import export
from bionemo.screens.errors import InputError

SCHEMA = "bionemo-scale serving benchmark 1"
FEWEST = 20
"""Repetitions below which a 95th percentile says nothing."""
SETS_AT_ONCE = 16
"""Populations that an exported model is given together."""
Condition = tuple[str, str]
"""Context and perturbation."""
Answer = Callable[[Sequence[Condition]], object]
"""Predicts a population of each condition."""


def run(
    checkpoint: Path,
    controls: Path,
    *,
    cells: int = 512,
    conditions: int = 1_000,
    repeats: int = 100,
    threads: int = 1,
    network_share: float | None = None,
    report: Callable[[str], None] = print,
) -> Result:
    """Load a model once and ask it for populations, as a service would.

    Parameters
    ----------
    checkpoint
        Directory that ``pretrain`` wrote.
    controls
        h5ad file with control cells of counts.
    cells
        Cells of each population.
    conditions
        How many populations the throughput is of.
    repeats
        Single populations that the latency is of.
    threads
        That compute.
    network_share
        Share of the network in what the loaded model predicts; the run's own if not given.

    Raises
    ------
    InputError
        There are fewer than ``FEWEST`` repeats, or the model and the control cells do not fit.
    """
    if repeats < FEWEST:
        raise InputError(f"--repeats {repeats} are too few for a 95th percentile: ask for {FEWEST} at least.")
    torch.set_num_threads(threads)
    began = time.monotonic()
    model = scale.load(checkpoint)
    start = model.start_from(controls, network_share=network_share)
    loaded = time.monotonic() - began
    contexts = sorted(set(start.pools.cells.contexts.tolist()))
    known = [(context, label) for label in model.perturbations for context in contexts]
    asked = list(islice(cycle(known), max(conditions, repeats)))

    def answer(of: Sequence[Condition]) -> None:
        # Which of them are asked for at once: all that differ.
        for first in range(0, len(of), len(known)):
            start.predict(like=_asked(of[first : first + len(known)], cells, start), part="all")

    sizes = {"cells": cells, "conditions": conditions, "repeats": repeats}
    arms = {"loaded": {"opened_seconds": loaded} | _measured(answer, asked, **sizes)}
    with tempfile.TemporaryDirectory() as folder:
        export(checkpoint, Path(folder) / "exported")
        began_again = time.monotonic()
        portable = scale_portable.load(Path(folder) / "exported")
        opened = {"opened_seconds": time.monotonic() - began_again}
    exported = _exported(portable, start, contexts, cells)
    arms["exported"] = opened | _measured(exported, asked, **sizes)
    for name, found in arms.items():
        report(f"{name}: {told(found)}")
    share = model.network_share if network_share is None else network_share
    settings = sizes | {"threads": threads, "network_share": share, "known_conditions": len(known)}
    return described(SCHEMA, began, machine_facts(), settings) | {"torch": torch.__version__, "arms": arms}


def told(found: Result) -> str:
    """Say in a line what was measured of a model."""
    first, half, most = (found[f"{name}_seconds"] * 1e3 for name in ("first", "latency_p50", "latency_p95"))
    return (
        f"opened in {found['opened_seconds']:.2f} s, first answer after {first:.0f} ms; one condition {half:.1f} ms "
        f"(95% within {most:.1f} ms); many {found['cells_per_cpu_second']:,.0f} cells/CPU-s, "
        f"{found['cells_per_second']:,.0f} cells/s"
    )


def _measured(answer: Answer, asked: Sequence[Condition], *, cells: int, conditions: int, repeats: int) -> Result:
    """Time the first answer, single ones, and many together."""
    taken = []
    for condition in [asked[0], *asked[:repeats]]:
        began = time.perf_counter()
        answer([condition])
        taken.append(time.perf_counter() - began)
    first, *single = taken
    began, used = time.perf_counter(), time.process_time()
    answer(asked[:conditions])
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    return {
        "first_seconds": first,
        "latency_p50_seconds": median(single),
        "latency_p95_seconds": quantiles(single, n=20)[-1],
        "cells_per_cpu_second": conditions * cells / cpu,
        "cells_per_second": conditions * cells / wall,
    }


def _asked(of: Sequence[Condition], cells: int, start: Start) -> ad.AnnData:
    """Return labels of as many cells as are asked for of each condition; without expression, which nothing reads."""
    columns = start.columns
    context, perturbation = (np.repeat([names[place] for names in of], cells) for place in (0, 1))
    obs = {columns.context: context, columns.perturbation: perturbation}
    pool = start.pools.cells
    if columns.batch is not None and pool.batches is not None:
        batch_of = dict(zip(pool.contexts.tolist(), pool.batches.tolist(), strict=True))  # any of a context's
        obs[columns.batch] = np.repeat([batch_of[name] for name, _ in of], cells)
    nothing = sparse.csr_matrix((len(context), len(start.model.genes)), dtype=np.float32)
    index, genes = pd.Index(np.arange(len(context)).astype(str)), pd.Index(start.model.genes)
    return ad.AnnData(nothing, obs=pd.DataFrame(obs, index=index), var=pd.DataFrame(index=genes))


def _exported(model: scale_portable.ScaleModel, start: Start, contexts: Sequence[str], cells: int) -> Answer:
    """Return a service of an exported model: it keeps control cells of each context, and rounds to counts."""
    kept = {}
    for context in contexts:
        pool = start.pools.of_context(context)
        rows = np.resize(np.arange(len(pool.rows)), cells)
        dense_SG = torch.from_numpy(pool.expression[rows].toarray())
        kept[context] = dense_SG, torch.from_numpy(pool.library[rows]), torch.from_numpy(pool.mean_G).float()

    def answer(of: Sequence[Condition]) -> None:
        for first in range(0, len(of), SETS_AT_ONCE):
            names, labels = zip(*of[first : first + SETS_AT_ONCE], strict=True)
            x0_BSG, library_BS, mean_BG = (torch.stack(part) for part in zip(*map(kept.get, names), strict=True))
            x1_BSG = model.predict(x0_BSG, perturbation=list(labels), context=list(names), control_mean=mean_BG)
            model.round(x1_BSG, library_BS)

    return answer
