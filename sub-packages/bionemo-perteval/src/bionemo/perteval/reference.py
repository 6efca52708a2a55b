"""Score a perfect mean, a perfect shift and a perfect population on simulated cells: the reference experiment."""

from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.run import evaluate
from bionemo.screens.simulation import CONTROL, CONTROL_SHARE, draw_replicate, draw_screen, log1p_of

REPLICATE = "independent replicate"


def reference(
    *,
    perturbations: int = 50,
    cells: int = 150,
    genes: int = 1000,
    seed: int = 0,
    threads: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score an independent replicate of simulated perturbations, with all baselines and oracles beside.

    One context of one subpopulation, with half as many further perturbations for training; see
    `bionemo.screens.simulation`.

    Parameters
    ----------
    perturbations
        Number of scored perturbations.
    cells
        Cells of each perturbation; there are three times as many control cells.
    genes
        Genes on the panel.
    seed
        Seed of the simulation and of every other draw.
    threads, progress
        The same as for `evaluate`.
    """
    drawn = perturbations + perturbations // 2
    size = {
        "cells": cells * (drawn + CONTROL_SHARE),
        "genes": genes,
        "contexts": 1,
        "perturbations": drawn,
        "batches": 1,
        "subpopulations": 1,
        "seed": seed,
    }
    screen, replicate = draw_screen(**size), draw_replicate(**size)
    scored = replicate.obs["perturbation"].cat.codes.to_numpy() <= perturbations  # 0 is the control
    return evaluate(
        {REPLICATE: log1p_of(replicate[scored].copy())},
        screen,
        perturbation_key="perturbation",
        context_key="context",
        control=CONTROL,
        target_sum=1e4,
        seed=seed,
        threads=threads,
        progress=progress,
    )
