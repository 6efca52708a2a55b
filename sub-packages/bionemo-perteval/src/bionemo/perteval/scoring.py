"""Draw, test and score every arm in every context, one population in memory at a time a thread."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bionemo.perteval.checks.profiles import OBSERVED, Profiles, Summaries, Summary, summarise
from bionemo.perteval.inputs.screen import Screen, mean_cell
from bionemo.perteval.metrics.registry import METRICS
from bionemo.perteval.metrics.scores import over_repeats, score
from bionemo.perteval.metrics.sides import Side
from bionemo.perteval.populations.baselines import BASELINES
from bionemo.perteval.populations.catalogue import draw, list_arms
from bionemo.perteval.populations.ceiling import split_halves, split_rows
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.progress import bar
from bionemo.perteval.significance import mann_whitney
from bionemo.perteval.significance.mann_whitney import Tested


@dataclass(frozen=True, kw_only=True)
class Scores:
    """`Scores` hold what `score_arms` found.

    Attributes
    ----------
    per_perturbation
        Columns: arm, context, perturbation, n_cells, the names of `METRICS`; means over seeds and over splits.
    per_seed
        The same with a column seed (0, 1, ...) for the predictions, one row a training seed.
    profiles
        What the pictures are drawn from.
    """

    per_perturbation: pd.DataFrame
    per_seed: pd.DataFrame
    profiles: Profiles


def score_arms(
    screen: Screen,
    *,
    main: bool = False,
    seed: int,
    threads: int,
    progress: bool,
) -> Scores:
    """Draw and score every arm in every context.

    Parameters
    ----------
    screen
        The cells.
    main
        Whether to score only the short list of baselines.
    seed
        Seed of every draw.
    threads
        How many threads share the perturbations; the numbers do not depend on it.
    progress
        Whether to show a bar on stderr.
    """
    arms = list_arms(screen, main=main)
    summaries = Summaries(screen)
    frames: list[pd.DataFrame] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        bar(progress, len(screen.scored) * sum(arm.repeats for arm in arms.values())) as begin,
    ):
        estimates = Estimates(screen)
        for context in screen.scored:
            scorer = ContextScorer(screen, estimates, context, seed=seed, pool=pool)
            summaries.add(OBSERVED, context, scorer.observed, scorer.observed_summaries)
            for name, arm in arms.items():
                for repeat in range(arm.repeats):
                    begin(f"{context}: {name}")
                    side, found, kept = scorer.ceiling(repeat) if arm.kind == "ceiling" else scorer.score(name, repeat)
                    frames.append(found.assign(arm=name, seed=repeat, context=context))
                    if repeat == 0 or arm.kind == "prediction":
                        summaries.add(name, context, side, kept, repeat=repeat)
        begin("done")
    labels = ["arm", "context", "perturbation", "n_cells"]
    scores = pd.DataFrame(pd.concat(frames, ignore_index=True)[["seed", *labels, *METRICS]])
    scores["arm"] = pd.Categorical(scores["arm"], list(arms))
    scores = scores.sort_values("arm", kind="stable", ignore_index=True).astype({"arm": object})
    of_predictions = scores["arm"].isin(list(screen.predictions))
    return Scores(
        per_perturbation=over_repeats(scores, labels, list(screen.predictions)),
        per_seed=pd.DataFrame(scores[of_predictions]).reset_index(drop=True),
        profiles=summaries.profiles(),
    )


class ContextScorer:
    """A `ContextScorer` sorts the control cells and tests the observed cells of one context, and scores arms there.

    Parameters
    ----------
    screen, estimates
        The cells, and what their training conditions say.
    context
        Context whose arms are scored.
    seed
        Seed of every draw.
    pool
        Threads that share the perturbations.
    """

    def __init__(
        self,
        screen: Screen,
        estimates: Estimates,
        context: str,
        *,
        seed: int,
        pool: ThreadPoolExecutor,
    ):
        self._screen, self._estimates, self._context = screen, estimates, context
        self._seed, self._pool = seed, pool
        self._names = screen.scored[context]
        self._controls = mann_whitney.sort_controls(screen.control_cells(context))
        halves = split_rows(screen, context, screen.control, seed)
        # The observed side takes its shift from the first half, the predicted side works with the second.
        self._observed_half, self._predicted_half = (mean_cell(screen.observed[rows]) for rows in halves)
        self._seen = screen.with_controls(context, halves[1])
        self._seen_estimates = estimates.with_controls(context, self._predicted_half)
        self._reference = self._estimates.perturbed_reference(context)

        def observe(name: str) -> tuple[Tested, Summary]:
            cells = screen.cells(context, name)
            tested = mann_whitney.test(cells, self._controls)
            return tested, summarise(cells, tested, prints=True)

        tests, self.observed_summaries = zip(*pool.map(observe, self._names), strict=True)
        self.observed = self._side(tests, [tested.moments.mean - self._observed_half for tested in tests])

    def score(self, arm: str, repeat: int = 0) -> tuple[Side, pd.DataFrame, Sequence[Summary]]:
        """Draw and score one arm.

        Returns
        -------
        side
            Its tests.
        scores
            Columns: perturbation, n_cells and the metrics.
        summaries
            Its populations.
        """
        narrowed = arm in BASELINES and BASELINES[arm].uses_controls

        def work(name: str) -> tuple[Tested, Summary, np.ndarray]:
            condition = (arm, self._context, name)
            cells = draw(self._screen, self._estimates, *condition, seed=self._seed, repeat=repeat)
            tested = mann_whitney.test(cells, self._controls)
            mean = tested.moments.mean
            if narrowed:
                mean = mean_cell(draw(self._seen, self._seen_estimates, *condition, seed=self._seed))
            return tested, summarise(cells, tested, prints=arm in self._screen.predictions), mean - self._predicted_half

        tests, summaries, shifts = zip(*self._pool.map(work, self._names), strict=True)
        return self._scored(self._side(tests, shifts), self.observed, summaries)

    def ceiling(self, repeat: int) -> tuple[Side, pd.DataFrame, Sequence[Summary]]:
        """Score one half of the observed cells against the other; return as `score` does."""

        def work(name: str) -> tuple[Tested, Summary, Tested]:
            halves = split_halves(self._screen, self._context, name, self._seed + repeat)
            first, second = (mann_whitney.test(half, self._controls) for half in halves)
            return first, summarise(halves[0], first, prints=False), second

        first, summaries, second = zip(*self._pool.map(work, self._names), strict=True)
        return self._scored(
            self._side(first, [tested.moments.mean - self._predicted_half for tested in first]),
            self._side(second, [tested.moments.mean - self._observed_half for tested in second]),
            summaries,
        )

    def _side(self, tests: Sequence[Tested], split_delta: Sequence[np.ndarray]) -> Side:
        return Side(
            perturbations=self._names,
            control=self._screen.control,
            genes=self._screen.genes,
            control_mean=self._controls.moments.mean,
            reference=self._reference,
            tests=list(tests),
            split_delta=np.stack(split_delta),
        )

    def _scored(
        self, predicted: Side, observed: Side, summaries: Sequence[Summary]
    ) -> tuple[Side, pd.DataFrame, Sequence[Summary]]:
        scores = score(predicted, observed).reset_index()
        return predicted, scores.assign(n_cells=[tested.moments.cells for tested in predicted.tests]), summaries
