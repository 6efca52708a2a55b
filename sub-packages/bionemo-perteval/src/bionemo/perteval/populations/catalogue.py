"""List the arms of an evaluation and draw their cells.

An *arm* is what a row of the tables stands for: a prediction, a baseline, an oracle, or the ceiling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bionemo.perteval.inputs.divisions import Divisions
from bionemo.perteval.inputs.screen import Population, Screen, generator
from bionemo.perteval.populations.baselines import BASELINES, Request, available
from bionemo.perteval.populations.ceiling import INTERPOLATED, INTERPOLATED_REPEATS, SPLIT_HALVES, SPLIT_REPEATS
from bionemo.perteval.populations.views import View
from bionemo.screens.controls import ControlRoles

Kind = Literal["prediction", "baseline", "oracle", "ceiling"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An `Arm` says what a row of the tables is: its kind, one sentence, and how many times it is drawn."""

    kind: Kind
    definition: str
    repeats: int = 1
    """Training seeds of a prediction, splits of the ceiling."""
    generic: bool = False
    """Whether it is a baseline that is the same for every perturbation of a context."""


def list_arms(screen: Screen, *, main: bool = False) -> dict[str, Arm]:
    """Return the arms that a screen allows, in the order of the tables.

    With `main` only the short list of baselines, no oracles, and of the ceilings the split halves.
    """
    arms: dict[str, Arm] = {}
    for name, seeds in screen.predictions.items():
        several = f", mean over {len(seeds)} training seeds" if len(seeds) > 1 else ""
        arms[name] = Arm(kind="prediction", definition=f"Predicted cells{several}.", repeats=len(seeds))
    for name, baseline in available(screen, main=main).items():
        kind: Kind = "oracle" if baseline.oracle else "baseline"
        arms[name] = Arm(kind=kind, definition=baseline.definition, generic=baseline.generic)
    arms[SPLIT_HALVES] = Arm(
        kind="ceiling",
        definition="One half of the observed cells scored against the other, mean over six splits: what a second "
        "experiment of half the size would reach. Fewer cells have noisier means and fewer DE genes, so this is a "
        "cautious ceiling.",
        repeats=SPLIT_REPEATS,
    )
    if not main:
        arms[INTERPOLATED] = Arm(
            kind="ceiling",
            definition="One half of the observed cells, its means drawn towards those of the other perturbed cells of "
            "the context where the half is not significantly different from them, scored against the other half; mean "
            "over three splits. A second experiment whose noise is where it does not hurt: the positive control of "
            "Miller et al. 2026.",
            repeats=INTERPOLATED_REPEATS,
        )
    return arms


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A `Turn` is one population of every scored condition of a context."""

    arm: str
    """What draws it."""
    repeat: int
    """Training seed of a prediction, split of the ceiling, place of its division for a baseline."""
    roles: tuple[ControlRoles, ...]
    """Divisions of the control cells under which the population is scored; a baseline is made under the first."""


def turns(arms: Mapping[str, Arm], divisions: Divisions) -> list[Turn]:
    """Return every population that has to be drawn, in the order of the arms; none is drawn twice.

    A training seed is scored under its own division, baselines under all, and splits of the ceiling take turns.
    """
    found = []
    for name, arm in arms.items():
        if arm.kind == "prediction":
            found += [Turn(arm=name, repeat=i, roles=divisions.of_seed(name, i)) for i in range(arm.repeats)]
        elif arm.kind == "ceiling":
            by_mode = [divisions.of(mode) for mode in divisions.modes]
            found += [
                Turn(arm=name, repeat=i, roles=tuple(roles[i % len(roles)] for roles in by_mode))
                for i in range(arm.repeats)
            ]
        elif BASELINES[name].uses_controls:
            found += [Turn(arm=name, repeat=i, roles=(roles,)) for i, roles in enumerate(divisions.all)]
        else:
            found.append(Turn(arm=name, repeat=0, roles=divisions.all))
    return found


def draw(view: View, arm: str, perturbation: str, *, seed: int, repeat: int = 0) -> Population:
    """Return the cells of a prediction (`repeat` is its training seed), baseline or oracle, log1p [n, G]."""
    if arm in view.screen.predictions:
        return view.screen.predictions[arm][repeat][view.context, perturbation]
    rng = generator(seed, arm, view.context, perturbation)
    return BASELINES[arm].draw(Request(view, perturbation, rng))


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
    return notes
