"""What a prediction has to beat, and what shows what a metric rewards: baselines and oracles, populations of cells.

A baseline is drawn from what a model could have seen: the control cells of the scored context and the training
conditions. An oracle is drawn from the answer. Names say how the population is made: a ``... mean`` is one cell tiled,
so it has no variance; ``... cells`` are real cells, resampled; ``control cells + ...`` shifts every control cell.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bionemo.perteval.inputs.screen import Population, Screen
from bionemo.perteval.populations.estimates import RIDGE, Estimates
from bionemo.perteval.populations.rounding import round_to_counts
from bionemo.screens.labels import Condition

Draw = Callable[[Screen, Estimates, str, str, np.random.Generator], Population]
"""(screen, estimates, context, perturbation, rng) -> as many cells as observed, log1p float32 [n, G]."""

Estimate = Callable[[Estimates, str, str], np.ndarray]
"""(estimates, context, perturbation) -> mean cell or delta, log1p [G]."""

CONTROL_CELLS = "control cells"
MEAN_DELTA = "control cells + mean delta"
TRANSFERRED_DELTA = "control cells + transferred delta"
ZERO_PRESERVING = "control cells + transferred delta, zero-preserving"
LINEAR_DELTA = "control cells + linear delta"
PERTURBATION_MEAN = "perturbation mean"
CONTEXT_MEAN = "context mean"
TRUE_MEAN = "true mean"
TRUE_DELTA = "control cells + true delta"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A population that needs no model.

    Attributes
    ----------
    name
        Row of the tables.
    definition
        One sentence for the report.
    draw
        Draws the cells of one condition.
    main
        Whether it stands in the short list of arms.
    oracle
        Whether it is drawn from the observed cells that it is scored against.
    uses_controls
        Whether it is made from control cells of the scored context.
    needs_training, needs_counts
        Without training conditions, or without counts, the baseline does not exist.
    """

    name: str
    definition: str
    draw: Draw
    main: bool = False
    oracle: bool = False
    uses_controls: bool = False
    needs_training: bool = True
    needs_counts: bool = False

    def exists_for(self, screen: Screen) -> bool:
        """Say whether the screen has what the baseline is made from."""
        if self.needs_training and not screen.training:
            return False
        return screen.library is not None or not self.needs_counts


def available(screen: Screen, *, main: bool = False) -> dict[str, Baseline]:
    """Return the baselines and oracles that a screen allows, by name; with `main` the short list alone."""
    return {
        name: baseline
        for name, baseline in BASELINES.items()
        if baseline.exists_for(screen) and (baseline.main or not main)
    }


def _size(screen: Screen, context: str, perturbation: str) -> int:
    return screen.rows[context, perturbation].size


def _draw_controls(screen: Screen, context: str, perturbation: str, rng: np.random.Generator) -> np.ndarray:
    """Draw rows of control cells with replacement: drawing all without would give back the controls themselves."""
    return rng.choice(screen.rows[context, screen.control], _size(screen, context, perturbation))


def _control_cells(
    screen: Screen, estimates: Estimates, context: str, perturbation: str, rng: np.random.Generator
) -> Population:
    return screen.observed[_draw_controls(screen, context, perturbation, rng)]


def _tile(screen: Screen, context: str, perturbation: str, cell: np.ndarray) -> np.ndarray:
    shape = (_size(screen, context, perturbation), cell.size)
    return np.broadcast_to(np.maximum(cell, 0.0).astype(np.float32), shape)


def _tiled(mean: Estimate) -> Draw:
    def draw(
        screen: Screen, estimates: Estimates, context: str, perturbation: str, rng: np.random.Generator
    ) -> Population:
        return _tile(screen, context, perturbation, mean(estimates, context, perturbation))

    return draw


def _tiled_shift(delta: Estimate) -> Draw:
    def draw(
        screen: Screen, estimates: Estimates, context: str, perturbation: str, rng: np.random.Generator
    ) -> Population:
        control = screen.mean(context, screen.control)
        return _tile(screen, context, perturbation, control + delta(estimates, context, perturbation))

    return draw


def _shift(screen: Screen, rows: np.ndarray, delta: np.ndarray) -> np.ndarray:
    shifted = screen.observed[rows].toarray()
    shifted += delta.astype(np.float32)
    return np.maximum(shifted, 0.0, out=shifted)


def _shifted(delta: Estimate) -> Draw:
    def draw(
        screen: Screen, estimates: Estimates, context: str, perturbation: str, rng: np.random.Generator
    ) -> Population:
        rows = _draw_controls(screen, context, perturbation, rng)
        return _shift(screen, rows, delta(estimates, context, perturbation))

    return draw


def _zero_preserving(delta: Estimate) -> Draw:
    def draw(
        screen: Screen, estimates: Estimates, context: str, perturbation: str, rng: np.random.Generator
    ) -> Population:
        assert screen.library is not None
        assert screen.target_sum is not None
        rows = _draw_controls(screen, context, perturbation, rng)
        shifted = _shift(screen, rows, delta(estimates, context, perturbation))
        return round_to_counts(shifted, screen.library[rows], screen.target_sum, rng).astype(np.float32)

    return draw


def _resampled(conditions: Callable[[Screen, str, str], list[Condition]]) -> Draw:
    """Draw real cells with replacement; every condition that they come from weighs the same."""

    def draw(
        screen: Screen, estimates: Estimates, context: str, perturbation: str, rng: np.random.Generator
    ) -> Population:
        sources = [screen.rows[condition] for condition in conditions(screen, context, perturbation)]
        chosen = rng.integers(len(sources), size=_size(screen, context, perturbation))
        sizes = np.array([rows.size for rows in sources])
        starts = np.cumsum(sizes) - sizes
        place = starts[chosen] + (rng.random(chosen.size) * sizes[chosen]).astype(np.int64)
        return screen.observed[np.concatenate(sources)[place]]

    return draw


def _of_perturbation(screen: Screen, context: str, perturbation: str) -> list[Condition]:
    return [c for c in screen.training if c[1] == perturbation] or list(screen.training)


def _of_context(screen: Screen, context: str, perturbation: str) -> list[Condition]:
    return [c for c in screen.training if c[0] == context] or list(screen.training)


def _true_mean(
    screen: Screen, estimates: Estimates, context: str, perturbation: str, rng: np.random.Generator
) -> Population:
    return _tile(screen, context, perturbation, screen.mean(context, perturbation))


def _true_delta(
    screen: Screen, estimates: Estimates, context: str, perturbation: str, rng: np.random.Generator
) -> Population:
    rows = _draw_controls(screen, context, perturbation, rng)
    return _shift(screen, rows, screen.delta(context, perturbation))


_ZEROS_KEPT = "The same, each value then rounded at random to what whole counts of that cell can show: zeros come back."
_SHIFT_TILED = "The mean control cell of the context plus that shift, tiled."


def _delta_baselines(name: str, delta: Estimate, definition: str, *, main: bool) -> tuple[Baseline, ...]:
    """Return the three populations of a delta: shifted control cells, the same with zeros kept, and the tiled mean."""
    return (
        Baseline(
            name=f"control cells + {name} delta",
            definition=definition,
            draw=_shifted(delta),
            main=main,
            uses_controls=True,
        ),
        Baseline(
            name=f"control cells + {name} delta, zero-preserving",
            definition=_ZEROS_KEPT,
            draw=_zero_preserving(delta),
            main=name == "transferred",
            uses_controls=True,
            needs_counts=True,
        ),
        Baseline(
            name=f"control mean + {name} delta",
            definition=_SHIFT_TILED,
            draw=_tiled_shift(delta),
            uses_controls=True,
        ),
    )


BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(
            name=CONTROL_CELLS,
            definition="Control cells of the same context, drawn with replacement: the perturbation does nothing.",
            draw=_control_cells,
            main=True,
            uses_controls=True,
            needs_training=False,
        ),
        Baseline(
            name="control mean",
            definition="Every cell is the mean control cell of the context.",
            draw=_tiled_shift(lambda estimates, context, perturbation: np.zeros(1)),
            uses_controls=True,
            needs_training=False,
        ),
        Baseline(
            name="perturbation cells",
            definition="Cells of that perturbation drawn from the training contexts, every context weighing the same.",
            draw=_resampled(_of_perturbation),
        ),
        Baseline(
            name=PERTURBATION_MEAN,
            definition="Every cell is the mean cell of that perturbation over the training contexts.",
            draw=_tiled(Estimates.perturbation_mean),
            main=True,
        ),
        Baseline(
            name="context cells",
            definition="Cells of the context's training perturbations, every perturbation weighing the same.",
            draw=_resampled(_of_context),
        ),
        Baseline(
            name=CONTEXT_MEAN,
            definition="Every cell is the mean cell of the context's training perturbations.",
            draw=_tiled(Estimates.context_mean),
        ),
        *_delta_baselines(
            "mean",
            Estimates.mean_delta,
            "Control cells of the context plus the mean shift of all training conditions, clipped at 0: what an "
            "average perturbation does.",
            main=True,
        ),
        *_delta_baselines(
            "transferred",
            Estimates.transferred_delta,
            "Control cells of the context plus the mean shift of that perturbation over the training contexts, "
            "clipped at 0: the baseline to beat.",
            main=True,
        ),
        *_delta_baselines(
            "linear",
            Estimates.linear_delta,
            "Control cells of the context plus the shift of an additive model of context and perturbation, fitted to "
            f"the training shifts by ridge regression (alpha {RIDGE} on each level), clipped at 0.",
            main=False,
        ),
        Baseline(
            name=TRUE_MEAN,
            definition="Every cell is the mean of the observed cells: a perfect mean without a population.",
            draw=_true_mean,
            oracle=True,
            needs_training=False,
        ),
        Baseline(
            name=TRUE_DELTA,
            definition="Control cells plus the observed shift, clipped at 0: a perfect shift of the wrong population.",
            draw=_true_delta,
            oracle=True,
            uses_controls=True,
            needs_training=False,
        ),
    )
}
"""Every baseline and oracle by name, in the order of the tables."""
