"""Draw, test and score every arm in every context, one population in memory at a time a thread.

An *arm* is what a row of the tables stands for: a prediction, a baseline, an oracle, or the ceiling.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bionemo.perteval.checks.profiles import OBSERVED, Profiles, Summaries, Summary, summarise
from bionemo.perteval.inputs.screen import Population, Screen, generator, mean_cell
from bionemo.perteval.metrics import scoring
from bionemo.perteval.metrics.registry import NAMES
from bionemo.perteval.populations.baselines import BASELINES, available, untrained
from bionemo.perteval.populations.ceiling import SPLIT_HALVES, SPLIT_REPEATS, split_halves, split_rows
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.progress import bar
from bionemo.perteval.significance import mann_whitney as differential
from bionemo.perteval.significance.cache import TestCache
from bionemo.perteval.significance.mann_whitney import Controls, Tested

Kind = Literal["prediction", "baseline", "oracle", "ceiling"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What a row of the tables is: its kind and a sentence."""

    kind: Kind
    definition: str


def listed(screen: Screen, *, main: bool = False) -> dict[str, Arm]:
    """Return the arms that a screen allows, in the order of the tables.

    Parameters
    ----------
    screen
        The cells.
    main
        Only the short list of baselines, and no oracles.
    """
    found: dict[str, Arm] = {}
    for name, seeds in screen.predictions.items():
        several = f", mean over {len(seeds)} training seeds" if len(seeds) > 1 else ""
        found[name] = Arm(kind="prediction", definition=f"Predicted cells{several}.")
    for name, baseline in available(screen, main=main).items():
        found[name] = Arm(kind="oracle" if baseline.oracle else "baseline", definition=baseline.definition)
    found[SPLIT_HALVES] = Arm(
        kind="ceiling",
        definition="One half of the observed cells scored against the other, mean over five splits: what a second "
        "experiment of half the size would reach. Fewer cells have noisier means and fewer DE genes, so this is a "
        "cautious ceiling.",
    )
    return found


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What `score_arms` found.

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
    cache: TestCache | None = None,
) -> Scores:
    """Draw and score every arm in every context.

    Parameters
    ----------
    screen
        The cells.
    main
        Only the short list of baselines.
    seed
        Of every draw.
    threads
        That share the perturbations; the numbers do not depend on them.
    progress
        Whether to show a bar on stderr.
    cache
        Where tests of observed cells are looked up and kept; None tests them anew.
    """
    rows = listed(screen, main=main)
    repeats = {name: len(seeds) for name, seeds in screen.predictions.items()} | {SPLIT_HALVES: SPLIT_REPEATS}
    summaries = Summaries(screen)
    frames: list[pd.DataFrame] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        bar(progress, len(screen.scored) * sum(repeats.get(name, 1) for name in rows)) as begin,
    ):
        estimates = Estimates(screen)
        for context in screen.scored:
            bench = Bench(screen, estimates, context, seed, pool, cache)
            summaries.add(OBSERVED, context, bench.observed_summaries)
            for name, arm in rows.items():
                for repeat in range(repeats.get(name, 1)):
                    begin(f"{context}: {name}")
                    scores, kept = bench.ceiling(repeat) if arm.kind == "ceiling" else bench.score(name, repeat)
                    frames.append(scores.assign(arm=name, seed=repeat, context=context))
                    if repeat == 0:
                        summaries.add(name, context, kept)
                    elif arm.kind == "prediction":
                        summaries.add_seed(name, repeat, context, kept)
        begin("done")
    return _collected(frames, rows, summaries, screen)


def notes(screen: Screen) -> list[str]:
    """Say what the scores rest on."""
    said = []
    perturbations, contexts = untrained(screen)
    if screen.training and perturbations:
        said.append(
            f"No training context has {', '.join(perturbations)}: the baselines used the mean over the training "
            "perturbations there."
        )
    if screen.training and contexts:
        said.append(
            f"No training perturbation is in {', '.join(contexts)}: the baselines that need one used the mean over "
            "all training contexts there."
        )
    if screen.library is None:
        said.append(
            "The observed file holds log1p values, not counts, so there is no count grid and the zero-preserving "
            "baselines are missing; give counts to have them."
        )
    single = [context for context, names in screen.scored.items() if len(names) == 1]
    if single:
        said.append(f"PDS is 1 by construction where one perturbation is scored: {', '.join(single)}.")
    said.append(
        "The same observed control cells stand on both sides, which raises PDCorr a little for arms that are not made "
        "from control cells, the ceiling included; PDCorr_split does without."
    )
    return said


def draw(
    screen: Screen, estimates: Estimates, arm: str, context: str, perturbation: str, *, seed: int, repeat: int = 0
) -> Population:
    """Return the cells of a prediction, baseline or oracle, log1p [n, G].

    Parameters
    ----------
    screen, estimates
        The cells, and what its training conditions say.
    arm, context, perturbation
        Which ones.
    seed
        Of the draw.
    repeat
        Training seed of the prediction.
    """
    if arm in screen.predictions:
        return screen.predictions[arm][repeat][context, perturbation]
    rng = generator(seed, arm, context, perturbation)
    return BASELINES[arm].draw(screen, estimates, context, perturbation, rng)


class Bench:
    """One context: its control cells sorted, its observed cells tested once, and arms scored against them.

    Parameters
    ----------
    screen, estimates
        The cells, and what their training conditions say.
    context
        Which one.
    seed
        Of every draw.
    pool
        Threads that share the perturbations.
    cache
        Of tests of observed cells.
    """

    def __init__(
        self,
        screen: Screen,
        estimates: Estimates,
        context: str,
        seed: int,
        pool: ThreadPoolExecutor,
        cache: TestCache | None,
    ):
        self._screen, self._context, self._seed, self._pool = screen, context, seed, pool
        self._names = screen.scored[context]
        self._estimates = estimates
        self._controls: Controls = differential.sort_controls(screen.control_cells(context))
        halves = split_rows(screen, context, screen.control, seed)
        # The observed side takes its shift from the first half, the predicted side works with the second.
        self._observed_half, self._predicted_half = (mean_cell(screen.observed[rows]) for rows in halves)
        self._seen = screen.with_controls(context, halves[1])
        self._seen_estimates = estimates.with_controls(context, self._predicted_half)
        self._reference = self._estimates.perturbed_reference(context)
        cached = cache.for_controls(screen.control_cells(context)) if cache else None

        def observe(name: str) -> Tested:
            cells = screen.cells(context, name)
            known = cached.get(cells) if cached else None
            tested = known or differential.test(cells, self._controls)
            if cached and known is None:
                cached.put(cells, tested)
            return tested

        observed = list(pool.map(lambda name: _with_summary(screen.cells(context, name), observe(name)), self._names))
        tests = [tested for tested, _ in observed]
        self.observed_summaries = [summary for _, summary in observed]
        self._observed = self._side(tests, [tested.moments.mean - self._observed_half for tested in tests])

    def score(self, arm: str, repeat: int) -> tuple[pd.DataFrame, list[Summary]]:
        """Draw and score one arm; return its scores (columns: perturbation, n_cells, metrics) and its populations."""
        narrowed = arm in BASELINES and BASELINES[arm].uses_controls

        def work(name: str) -> tuple[Tested, Summary, np.ndarray]:
            condition = (arm, self._context, name)
            cells = draw(self._screen, self._estimates, *condition, seed=self._seed, repeat=repeat)
            tested = differential.test(cells, self._controls)
            mean = tested.moments.mean
            if narrowed:
                mean = mean_cell(draw(self._seen, self._seen_estimates, *condition, seed=self._seed))
            return tested, summarise(cells, tested, prints=arm in self._screen.predictions), mean - self._predicted_half

        tests, summaries, shifts = zip(*self._pool.map(work, self._names), strict=True)
        return self._scored(self._side(tests, shifts), self._observed), list(summaries)

    def ceiling(self, repeat: int) -> tuple[pd.DataFrame, list[Summary]]:
        """Score one half of the observed cells against the other; return as `score` does."""

        def work(name: str) -> tuple[Tested, Summary, Tested]:
            halves = split_halves(self._screen, self._context, name, self._seed + repeat)
            first, second = (differential.test(half, self._controls) for half in halves)
            return first, summarise(halves[0], first, prints=False), second

        first, summaries, second = zip(*self._pool.map(work, self._names), strict=True)
        scores = self._scored(
            self._side(first, [tested.moments.mean - self._predicted_half for tested in first]),
            self._side(second, [tested.moments.mean - self._observed_half for tested in second]),
        )
        return scores, list(summaries)

    def _side(self, tests: Iterable[Tested], split_delta: Iterable[np.ndarray]) -> scoring.Side:
        return scoring.Side(
            perturbations=self._names,
            control=self._screen.control,
            genes=self._screen.genes,
            control_mean=self._controls.moments.mean,
            tests=list(tests),
            split_delta=np.stack(list(split_delta)),
        )

    def _scored(self, predicted: scoring.Side, observed: scoring.Side) -> pd.DataFrame:
        scores = scoring.score(predicted, observed, self._reference).rename_axis("perturbation").reset_index()
        return scores.assign(n_cells=[tested.moments.cells for tested in predicted.tests])


def _with_summary(cells: Population, tested: Tested) -> tuple[Tested, Summary]:
    return tested, summarise(cells, tested, prints=True)


def _collected(frames: list[pd.DataFrame], rows: dict[str, Arm], summaries: Summaries, screen: Screen) -> Scores:
    order = {name: place for place, name in enumerate(rows)}
    scores = pd.concat(frames, ignore_index=True)
    labels = ["arm", "context", "perturbation", "n_cells"]
    scores = pd.DataFrame(scores[["arm", "seed", *labels[1:], *NAMES]])
    scores = scores.sort_values("arm", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    means = pd.DataFrame(scores.groupby(labels, sort=False)[NAMES].mean().reset_index())
    return Scores(
        per_perturbation=means,
        per_seed=pd.DataFrame(scores[scores["arm"].isin(list(screen.predictions))]).reset_index(drop=True),
        profiles=summaries.profiles(),
    )
