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

    One context of one subpopulation, with half as many further perturbations for training and three times as many
    control cells as cells of a perturbation; see `bionemo.screens.simulation`. `threads` and `progress` are those of
    `evaluate`.
    """
    drawn = perturbations + perturbations // 2
    size = {"cells": cells * (drawn + CONTROL_SHARE), "genes": genes, "perturbations": drawn, "seed": seed}
    size |= {"contexts": 1, "batches": 1, "subpopulations": 1}
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
