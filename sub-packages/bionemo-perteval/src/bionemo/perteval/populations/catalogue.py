"""List the arms of an evaluation and draw their cells.

An *arm* is what a row of the tables stands for: a prediction, a baseline, an oracle, or the ceiling.
"""

from dataclasses import dataclass
from typing import Literal

from bionemo.perteval.inputs.screen import Population, Screen, generator
from bionemo.perteval.populations.baselines import BASELINES, Request, available
from bionemo.perteval.populations.ceiling import SPLIT_HALVES, SPLIT_REPEATS
from bionemo.perteval.populations.estimates import Estimates

Kind = Literal["prediction", "baseline", "oracle", "ceiling"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An `Arm` says what a row of the tables is: its kind, one sentence, and how many times it is drawn."""

    kind: Kind
    definition: str
    repeats: int = 1
    """Training seeds of a prediction, splits of the ceiling."""


def list_arms(screen: Screen, *, main: bool = False) -> dict[str, Arm]:
    """Return the arms that a screen allows, in the order of the tables.

    Parameters
    ----------
    screen
        The cells.
    main
        Whether to take only the short list of baselines, and no oracles.
    """
    arms: dict[str, Arm] = {}
    for name, seeds in screen.predictions.items():
        several = f", mean over {len(seeds)} training seeds" if len(seeds) > 1 else ""
        arms[name] = Arm(kind="prediction", definition=f"Predicted cells{several}.", repeats=len(seeds))
    for name, baseline in available(screen, main=main).items():
        arms[name] = Arm(kind="oracle" if baseline.oracle else "baseline", definition=baseline.definition)
    arms[SPLIT_HALVES] = Arm(
        kind="ceiling",
        definition="One half of the observed cells scored against the other, mean over five splits: what a second "
        "experiment of half the size would reach. Fewer cells have noisier means and fewer DE genes, so this is a "
        "cautious ceiling.",
        repeats=SPLIT_REPEATS,
    )
    return arms


def draw(
    screen: Screen, estimates: Estimates, arm: str, context: str, perturbation: str, *, seed: int, repeat: int = 0
) -> Population:
    """Return the cells of a prediction, baseline or oracle, log1p [n, G].

    Parameters
    ----------
    screen, estimates
        The cells, and what its training conditions say.
    arm, context, perturbation
        Arm and condition of the cells.
    seed
        Seed of the draw.
    repeat
        Training seed of the prediction.
    """
    if arm in screen.predictions:
        return screen.predictions[arm][repeat][context, perturbation]
    rng = generator(seed, arm, context, perturbation)
    return BASELINES[arm].draw(Request(screen, estimates, context, perturbation, rng))


def population_notes(screen: Screen) -> list[str]:
    """Say what the baselines of a screen rest on, and what they lack."""
    notes = []
    contexts = {context for context, _ in screen.training}
    perturbations = {perturbation for _, perturbation in screen.training}
    new_contexts = sorted(set(screen.scored) - contexts)
    new_perturbations = sorted({name for names in screen.scored.values() for name in names} - perturbations)
    if screen.training and new_perturbations:
        notes.append(
            f"No training context has {', '.join(new_perturbations)}: the baselines used the mean over the training "
            "perturbations there."
        )
    if screen.training and new_contexts:
        notes.append(
            f"No training perturbation is in {', '.join(new_contexts)}: the baselines that need one used the mean over "
            "all training contexts there."
        )
    if screen.library is None:
        notes.append(
            "The observed file holds log1p values, not counts, so there is no count grid and the zero-preserving "
            "baselines are missing; give counts to have them."
        )
    single = [context for context, names in screen.scored.items() if len(names) == 1]
    if single:
        notes.append(f"PDS is 1 by construction where one perturbation is scored: {', '.join(single)}.")
    return [
        *notes,
        "The same observed control cells stand on both sides, which raises PDCorr a little for arms that are not made "
        "from control cells, the ceiling included; PDCorr_split does without.",
    ]
