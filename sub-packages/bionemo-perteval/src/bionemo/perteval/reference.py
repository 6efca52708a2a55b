"""The reference experiment: what a perfect mean, a perfect shift and a perfect population score on simulated cells."""

from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.run import evaluate
from bionemo.screens.replicates import CONTROL, log1p_of, simulate

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

    One context, with half as many further perturbations for training; see `simulation.simulate`.

    Parameters
    ----------
    perturbations
        That are scored.
    cells
        Of each perturbation; there are four times as many control cells.
    genes
        On the panel.
    seed
        Of the simulation and of every other draw.
    threads, progress
        As of `evaluate`.
    """
    screen, replicate = simulate(
        cells=cells,
        controls=4 * cells,
        perturbations=perturbations + perturbations // 2,
        genes=genes,
        shared=0.6,
        affected=0.05,
        strength=1.5,
        depth=-3.0,
        seed=seed,
    )
    scored = replicate.obs["perturbation"].isin([f"p{i:03d}" for i in range(perturbations)]).to_numpy()
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
