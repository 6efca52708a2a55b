"""Draw, test and score every arm in every context, one population in memory at a time a thread."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context

import numpy as np
import pandas as pd

from bionemo.perteval.checks.profiles import OBSERVED, Parts, Profiles, Summaries, Summary, summarise
from bionemo.perteval.inputs.divisions import Divisions
from bionemo.perteval.inputs.screen import Population, Screen
from bionemo.perteval.metrics.formulas import covariances
from bionemo.perteval.metrics.registry import METRICS
from bionemo.perteval.metrics.scores import over_repeats, score
from bionemo.perteval.metrics.sides import Side
from bionemo.perteval.populations.catalogue import Arm, Turn, draw, list_arms, turns
from bionemo.perteval.populations.ceiling import INTERPOLATED, SPLIT_HALVES, Sums, interpolated_duplicate, split_halves
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.populations.views import View
from bionemo.perteval.progress import bar
from bionemo.perteval.significance import mann_whitney
from bionemo.perteval.significance.mann_whitney import SortedControls, Tested
from bionemo.screens.controls import ControlRole, ControlRoles, Controls
from bionemo.screens.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Scores:
    """`Scores` hold what `score_arms` found."""

    tables: dict[Controls, dict[str, pd.DataFrame]]
    """Kind of control cells -> per_perturbation and per_seed of the `Evaluation` under it."""
    profiles: Profiles
    """What the pictures are drawn from, under the first kind."""
    noise: dict[str, float]
    """Context -> share of the variance over genes of the observed shifts that is sampling noise, by split halves; empty
    without independent control cells."""


def score_arms(
    screen: Screen,
    divisions: Divisions,
    *,
    main: bool = False,
    seed: int,
    threads: int,
    jobs: int = 1,
    progress: bool,
) -> Scores:
    """Draw and score every arm in every context, with `main` only the short list of baselines.

    Each of `jobs` processes scores some of the contexts, and `threads` in each share the perturbations of a context;
    the numbers depend on neither.

    Raises
    ------
    InputError
        One of several processes was killed.
    """
    arms = list_arms(screen, main=main)
    how = _How(screen, Estimates(screen), arms, divisions, seed, threads)
    summaries = Summaries(screen)
    frames: list[pd.DataFrame] = []
    noise: dict[str, float] = {}
    with bar(progress, len(screen.scored) * len(how.turns)) as begin:
        for context, found in _by_context(how, jobs, begin):
            frames += found.frames
            summaries.join(found.summaries)
            if Controls.INDEPENDENT in divisions.modes:
                noise[context] = found.noise
        begin("done")
    scores = pd.concat(frames, ignore_index=True)
    return Scores(
        tables={
            mode: _tables(pd.DataFrame(scores[scores["controls"] == mode]), list(arms), list(screen.predictions))
            for mode in divisions.modes
        },
        profiles=summaries.profiles(),
        noise=noise,
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A `_Found` holds what was found in one context."""

    frames: list[pd.DataFrame]
    summaries: Parts
    noise: float


@dataclass(frozen=True)
class _How:
    """A `_How` says what is scored in each context; see `score_arms`."""

    screen: Screen
    estimates: Estimates
    arms: dict[str, Arm]
    divisions: Divisions
    seed: int
    threads: int

    @cached_property
    def turns(self) -> list[Turn]:
        """Every population that has to be drawn."""
        return turns(self.arms, self.divisions)

    def score(self, context: str, begin: Callable[[str], None]) -> _Found:
        """Draw and score every arm in one context."""
        divisions, summaries, frames = self.divisions, Summaries(self.screen), []
        with ThreadPoolExecutor(self.threads) as pool:
            scorer = ContextScorer(self.screen, self.estimates, context, divisions, seed=self.seed, pool=pool)
            summaries.add(OBSERVED, context, scorer.observed[divisions.all[0]], scorer.observed_summaries)
            for turn in self.turns:
                begin(f"{context}: {turn.arm}")
                # Pictures show each arm once, under the first kind of control cells; checks look at every seed.
                shown = turn.roles[0].controls is divisions.modes[0]
                shown &= turn.repeat == 0 or self.arms[turn.arm].kind == "prediction"
                labels = {"arm": turn.arm, "seed": turn.repeat, "context": context}
                for found in scorer.score(turn, keep=shown):
                    frames.append(found.scores.assign(controls=found.roles.controls, **labels))
                    if found.summaries is not None:
                        summaries.add(turn.arm, context, found.side, found.summaries, repeat=turn.repeat)
        return _Found(frames=frames, summaries=summaries.parts, noise=scorer.noise)


def _by_context(how: _How, jobs: int, begin: Callable[[str], None]) -> Iterator[tuple[str, _Found]]:
    """Yield each context, in their order, with what was found there, by this process or by several others."""
    contexts = list(how.screen.scored)
    if jobs == 1:
        yield from ((context, how.score(context, begin)) for context in contexts)
        return
    # A process that was forked could wait for ever for a lock that a thread of this one held.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _take, (how,)) as pool:
        try:
            for context, found in zip(contexts, pool.map(_score_taken, contexts), strict=True):
                for _ in how.turns:
                    begin(context)
                yield context, found
        except BrokenProcessPool as error:
            raise InputError(
                "A process that scored contexts was killed, perhaps because memory ran out; give fewer --jobs."
            ) from error


_taken: list[_How] = []
"""What a process of several scores."""


def _take(how: _How) -> None:
    _taken.append(how)


def _score_taken(context: str) -> _Found:
    return _taken[0].score(context, lambda step: None)


def _tables(scores: pd.DataFrame, arms: list[str], predictions: list[str]) -> dict[str, pd.DataFrame]:
    """Return means over repeats, the arms in their order."""
    labels = ["arm", "context", "perturbation", "n_cells"]
    scores = pd.DataFrame(scores[["seed", *labels, *METRICS]])
    scores["arm"] = pd.Categorical(scores["arm"], arms)
    scores = scores.sort_values("arm", kind="stable", ignore_index=True).astype({"arm": object})
    mine = pd.DataFrame(scores[scores["arm"].isin(predictions)])
    return {
        "per_perturbation": over_repeats(scores, labels, predictions),
        "per_seed": over_repeats(mine, ["seed", *labels], predictions),
    }


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A `Scored` holds one population of every scored perturbation of a context, under one division."""

    roles: ControlRoles
    """The division."""
    side: Side
    """Its tests."""
    scores: pd.DataFrame
    """Columns: perturbation, n_cells and the metrics."""
    summaries: Sequence[Summary] | None
    """What is kept of the populations, under the first division of their turn alone."""


class ContextScorer:
    """A `ContextScorer` sorts the control cells and tests the observed cells of one context, and scores arms there.

    `observed` has the observed cells under each division of the control cells, tested against its truth, and
    `observed_summaries` what is kept of them under the first. The threads of a `pool` share the perturbations.
    """

    def __init__(
        self,
        screen: Screen,
        estimates: Estimates,
        context: str,
        divisions: Divisions,
        *,
        seed: int,
        pool: ThreadPoolExecutor,
    ):
        self._screen, self._context, self._seed, self._pool = screen, context, seed, pool
        self._names = screen.scored[context]
        self._views = {roles: View.of(screen, estimates, context, roles) for roles in divisions.all}
        self._controls: dict[tuple[ControlRoles, ControlRole], SortedControls] = {}
        known: dict[bytes, SortedControls] = {}  # a part may have several roles
        for roles, view in self._views.items():
            for role, rows in ((ControlRole.INPUT, view.known), (ControlRole.TRUTH, view.truth)):
                if rows.tobytes() not in known:
                    known[rows.tobytes()] = mann_whitney.sort_controls(screen.observed[rows])
                self._controls[roles, role] = known[rows.tobytes()]
        self._reference = estimates.perturbed_reference(context)
        self._variances = np.zeros(2)

        def observe(name: str) -> tuple[list[Tested], Summary]:
            cells = screen.cells(context, name)
            tests = self._test(cells, divisions.all, ControlRole.TRUTH)
            return tests, summarise(cells, tests[0], prints=True)

        tests, self.observed_summaries = zip(*pool.map(observe, self._names), strict=True)
        self.observed = {
            roles: self._side(roles, ControlRole.TRUTH, [of[place] for of in tests])
            for place, roles in enumerate(divisions.all)
        }

    @property
    def noise(self) -> float:
        """Share of the observed shifts' variance over genes that two halves with control cells apart do not share.

        ``1 - sum_p cov(half_1, half_2) / sum_p var(whole)``, means over the splits of the ceiling that were scored.
        """
        common, whole = self._variances
        return float(1 - common / whole) if whole else float("nan")

    @cached_property
    def _perturbed(self) -> Sums:
        return Sums.of_perturbed(self._screen, self._context)

    def score(self, turn: Turn, *, keep: bool = False) -> Iterator[Scored]:
        """Draw and score one population of every scored perturbation, under each division of the turn.

        With `keep` the populations are summarised.
        """
        prints, halved = turn.arm in self._screen.predictions, turn.arm in (SPLIT_HALVES, INTERPOLATED)
        perturbed = self._perturbed if turn.arm == INTERPOLATED else None

        def work(name: str) -> tuple[list[Tested], list[Tested], Summary | None]:
            seen: list[Tested] = []
            if halved:
                asked = self._screen, self._context, name, self._seed + turn.repeat
                cells, other = interpolated_duplicate(*asked, perturbed) if perturbed else split_halves(*asked)
                seen = self._test(other, turn.roles, ControlRole.TRUTH)
            else:
                view = self._views[turn.roles[0]]
                cells = draw(view, turn.arm, name, seed=self._seed, repeat=turn.repeat)
            tests = self._test(cells, turn.roles, ControlRole.INPUT)
            return tests, seen, summarise(cells, tests[0], prints=prints) if keep else None

        made, seen, kept = zip(*self._pool.map(work, self._names), strict=True)
        for place, roles in enumerate(turn.roles):
            predicted = self._side(roles, ControlRole.INPUT, [tests[place] for tests in made])
            observed = self.observed[roles]
            if halved:
                observed = self._side(roles, ControlRole.TRUTH, [tests[place] for tests in seen])
                if turn.arm == SPLIT_HALVES and roles.controls is Controls.INDEPENDENT:
                    whole = self.observed[roles].delta
                    self._variances += [
                        covariances(predicted.delta, observed.delta).sum(),
                        covariances(whole, whole).sum(),
                    ]
            scores = score(predicted, observed).reset_index()
            scores["n_cells"] = [tested.moments.cells for tested in predicted.tests]
            yield Scored(roles=roles, side=predicted, scores=scores, summaries=kept if keep and place == 0 else None)

    def _test(self, cells: Population, divisions: Sequence[ControlRoles], role: ControlRole) -> list[Tested]:
        """Test one population against the control cells that have a role, under each of several divisions."""
        own = mann_whitney.sort_cells(cells)
        return [mann_whitney.test(own, self._controls[roles, role]) for roles in divisions]

    def _side(self, roles: ControlRoles, role: ControlRole, tests: Sequence[Tested]) -> Side:
        return Side(
            perturbations=self._names,
            control=self._screen.control,
            genes=self._screen.genes,
            control_mean=self._controls[roles, role].moments.mean,
            reference=self._reference,
            tests=list(tests),
        )
