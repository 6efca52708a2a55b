"""Make the baselines, which a prediction has to beat, and the oracles, which show what a metric rewards.

A baseline is drawn from what a model could have seen: the control cells of the scored context and the training
conditions. An oracle is drawn from the answer. Names say how the population is made: a ``... mean`` is one cell tiled,
so it has no variance; ``... cells`` are real cells, resampled; ``control cells + ...`` shifts every control cell.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bionemo.perteval.inputs.screen import Population, Screen
from bionemo.perteval.populations.estimates import RIDGE, Estimates
from bionemo.perteval.populations.rounding import round_to_counts
from bionemo.perteval.populations.views import View
from bionemo.screens.labels import Condition

CONTROL_CELLS = "control cells"
TRANSFERRED_DELTA = "control cells + transferred delta"


@dataclass(frozen=True)
class Request:
    """A `Request` asks for the cells of one condition, as many as were observed."""

    view: View
    """The context, with the control cells that baselines are made from."""
    perturbation: str
    """Perturbation of the cells."""
    rng: np.random.Generator
    """Source of the draws."""

    @property
    def screen(self) -> Screen:
        """The cells."""
        return self.view.screen

    @property
    def context(self) -> str:
        """Context of the cells."""
        return self.view.context

    def estimated(self, estimate: "Estimate") -> np.ndarray:
        """Return what the training conditions say of the condition, log1p [G]."""
        return estimate(self.view.estimates, self.context, self.perturbation)

    @property
    def size(self) -> int:
        """Number of cells to draw."""
        return self.screen.rows[self.context, self.perturbation].size

    def control_rows(self) -> np.ndarray:
        """Draw rows of control cells with replacement: drawing all without would give back the controls themselves."""
        return self.rng.choice(self.screen.rows[self.context, self.screen.control], self.size)

    def tiled(self, cell: np.ndarray) -> np.ndarray:
        """Return a cell, log1p [G], as every cell of the population; clipped at 0."""
        return np.broadcast_to(np.maximum(cell, 0.0).astype(np.float32), (self.size, cell.size))

    def shifted(self, rows: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """Return observed cells with a shift, log1p [G], added to each; clipped at 0."""
        cells = self.screen.observed[rows].toarray()
        cells += delta.astype(np.float32)
        return np.maximum(cells, 0.0, out=cells)

    def resampled(self, conditions: list[Condition]) -> Population:
        """Draw real cells with replacement; every condition that they come from weighs the same."""
        sources = [self.screen.rows[condition] for condition in conditions]
        chosen = self.rng.integers(len(sources), size=self.size)
        sizes = np.array([rows.size for rows in sources])
        starts = np.cumsum(sizes) - sizes
        place = starts[chosen] + (self.rng.random(chosen.size) * sizes[chosen]).astype(np.int64)
        return self.screen.observed[np.concatenate(sources)[place]]


Draw = Callable[[Request], Population]
"""Request -> cells, log1p float32 [n, G]."""

Estimate = Callable[[Estimates, str, str], np.ndarray]
"""(estimates, context, perturbation) -> mean cell or delta, log1p [G]."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A `Baseline` is a population that needs no model."""

    name: str
    """Row of the tables."""
    definition: str
    """One sentence for the report."""
    draw: Draw
    """Draws the cells of one condition."""
    main: bool = False
    """Whether it stands in the short list of arms."""
    oracle: bool = False
    """Whether it is drawn from the observed cells that it is scored against."""
    uses_controls: bool = False
    """Whether it is made from control cells of the scored context."""
    generic: bool = False
    """Whether it is the same for every perturbation of a context, so that it knows nothing of any."""
    needs_training: bool = True
    """Whether it exists only with training conditions."""
    needs_counts: bool = False
    """Whether it exists only with counts."""
    needs_factors: bool = False
    """Whether it exists only with contexts that are joined from several columns."""

    def exists_for(self, screen: Screen) -> bool:
        """Say whether the screen has what the baseline is made from."""
        if (self.needs_training and not screen.training) or (self.needs_factors and not screen.factors):
            return False
        return screen.library is not None or not self.needs_counts


def available(screen: Screen, *, main: bool = False) -> dict[str, Baseline]:
    """Return the baselines and oracles that a screen allows, by name; with `main` the short list alone."""
    return {
        name: baseline
        for name, baseline in BASELINES.items()
        if baseline.exists_for(screen) and (baseline.main or not main)
    }


def _tiled(mean: Estimate) -> Draw:
    return lambda asked: asked.tiled(asked.estimated(mean))


def _tiled_shift(delta: Estimate) -> Draw:
    def draw(asked: Request) -> Population:
        control = asked.screen.mean(asked.context, asked.screen.control)
        return asked.tiled(control + asked.estimated(delta))

    return draw


def _shifted(delta: Estimate) -> Draw:
    return lambda asked: asked.shifted(asked.control_rows(), asked.estimated(delta))


def _zero_preserving(delta: Estimate) -> Draw:
    def draw(asked: Request) -> Population:
        screen, rows = asked.screen, asked.control_rows()
        assert screen.library is not None
        assert screen.target_sum is not None
        shifted = asked.shifted(rows, asked.estimated(delta))
        return round_to_counts(shifted, screen.library[rows], screen.target_sum, asked.rng).astype(np.float32)

    return draw


def _of_perturbation(asked: Request) -> Population:
    return asked.resampled(asked.screen.training_by[1].get(asked.perturbation) or list(asked.screen.training))


def _of_context(asked: Request) -> Population:
    return asked.resampled(asked.screen.training_by[0].get(asked.context) or list(asked.screen.training))


def _delta_baselines(
    name: str, delta: Estimate, definition: str, *, main: bool = False, needs_factors: bool = False
) -> tuple[Baseline, ...]:
    """Return the three populations of a delta: shifted control cells, the same with zeros kept, and the tiled mean."""
    shifted = Baseline(
        name=f"control cells + {name} delta",
        definition=definition,
        draw=_shifted(delta),
        main=main,
        uses_controls=True,
        generic=name == "mean",
        needs_factors=needs_factors,
    )
    kept = replace(
        shifted,
        name=f"{shifted.name}, zero-preserving",
        definition="The same, each value then rounded at random to what whole counts of that cell can show: zeros come "
        "back.",
        draw=_zero_preserving(delta),
        main=name == "transferred",
        needs_counts=True,
    )
    tiled = replace(
        shifted,
        name=f"control mean + {name} delta",
        definition="The mean control cell of the context plus that shift, tiled.",
        draw=_tiled_shift(delta),
        main=False,
    )
    return shifted, kept, tiled


BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(
            name=CONTROL_CELLS,
            definition="Control cells of the same context, drawn with replacement: the perturbation does nothing.",
            draw=lambda asked: asked.screen.observed[asked.control_rows()],
            main=True,
            uses_controls=True,
            generic=True,
            needs_training=False,
        ),
        Baseline(
            name="control mean",
            definition="Every cell is the mean control cell of the context.",
            draw=_tiled_shift(lambda estimates, context, perturbation: np.zeros(1)),
            uses_controls=True,
            generic=True,
            needs_training=False,
        ),
        Baseline(
            name="perturbation cells",
            definition="Cells of that perturbation drawn from the training contexts, every context weighing the same.",
            draw=_of_perturbation,
        ),
        Baseline(
            name="perturbation mean",
            definition="Every cell is the mean cell of that perturbation over the training contexts.",
            draw=_tiled(Estimates.perturbation_mean),
            main=True,
        ),
        Baseline(
            name="context cells",
            definition="Cells of the context's training perturbations, every perturbation weighing the same.",
            draw=_of_context,
            generic=True,
        ),
        Baseline(
            name="context mean",
            definition="Every cell is the mean cell of the context's training perturbations.",
            draw=_tiled(Estimates.context_mean),
            generic=True,
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
            "related",
            Estimates.related_delta,
            "Control cells of the context plus the mean shift of that perturbation over the training contexts that "
            "share the most columns with this one (the same cell type in another donor), clipped at 0.",
            main=True,
            needs_factors=True,
        ),
        *_delta_baselines(
            "linear",
            Estimates.linear_delta,
            "Control cells of the context plus the shift of an additive model of context and perturbation, fitted to "
            f"the training shifts by ridge regression (alpha {RIDGE} on each level), clipped at 0.",
        ),
        Baseline(
            name="true mean",
            definition="Every cell is the mean of the observed cells: a perfect mean without a population.",
            draw=lambda asked: asked.tiled(asked.screen.mean(asked.context, asked.perturbation)),
            oracle=True,
            needs_training=False,
        ),
        Baseline(
            name="control cells + true delta",
            definition="Control cells plus the observed shift, clipped at 0: a perfect shift of the wrong population.",
            draw=lambda asked: asked.shifted(asked.control_rows(), asked.view.true_delta(asked.perturbation)),
            oracle=True,
            uses_controls=True,
            needs_training=False,
        ),
    )
}
"""Every baseline and oracle by name, in the order of the tables."""
