"""Keep what the report and the flags show of the populations: moments, tests, sizes, copies."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bionemo.perteval.checks.components import Components, project
from bionemo.perteval.checks.fingerprints import Fingerprints, row_sums, shared
from bionemo.perteval.inputs.screen import Population, Screen
from bionemo.perteval.metrics.sides import Side
from bionemo.perteval.significance.mann_whitney import FDR, Tested
from bionemo.screens.labels import Condition

OBSERVED = "observed"
"""Name of the observed cells beside the arms."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the sizes of cells."""

_AT_ONCE = 2_000
"""Cells of a dense population whose counts are in memory together."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """A `Response` says what a perturbation does in one population, gene by gene; arrays are float32 [G]."""

    cells: int
    """The population has so many cells."""
    mean: np.ndarray
    """The mean log1p value of each gene."""
    delta: np.ndarray
    """The mean less that of the control cells, in log1p."""
    variance: np.ndarray
    """The variance of the log1p values of each gene."""
    zeros: float
    """So large a part of the values is zero."""
    log_fold_change: np.ndarray
    """The log2 fold change that the tests of differential expression report."""
    rate: np.ndarray
    """The false discovery rate that the same tests report."""

    @property
    def significant(self) -> np.ndarray:
        """Which genes are differentially expressed, bool [G]."""
        return self.rate < FDR


@dataclass(frozen=True, kw_only=True)
class Copies:
    """`Copies` count how often cells of one predicted population occur again."""

    cells: int
    """The population has so many cells."""
    distinct: int
    """So many of them are different from each other."""
    of_observed: int
    """So many were observed under a scored perturbation."""
    of_controls: int
    """So many are observed control cells."""
    of_others: int
    """So many were predicted for another perturbation of the context too, and are no control cells."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A `Seed` holds what one training seed of a prediction made of every condition."""

    responses: dict[Condition, Response] = field(default_factory=dict)
    copies: dict[Condition, Copies] = field(default_factory=dict)
    """Counted for predictions alone."""


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """`Profiles` summarise the populations."""

    zeros: dict[str, np.ndarray]
    """Arm (and `OBSERVED`) -> fraction of zeros of each gene inside a population, mean over perturbations, then over
    contexts [G]."""
    variances: dict[str, np.ndarray]
    """The same of the variance of log1p values [G]."""
    depth: dict[str, np.ndarray]
    """Arm (and `OBSERVED`) -> `QUANTILES` over the cells of a population of the normalised counts on the panel; mean as
    above [5]."""
    detected: dict[str, np.ndarray]
    """The same of the number of expressed genes [5]."""
    seeds: dict[str, tuple[Seed, ...]]
    """Prediction (and `OBSERVED`) -> its training seeds; pictures show the first of them, flags look at all."""
    components: Components
    """Cells of the condition with the most observed DE genes."""

    @property
    def responses(self) -> dict[str, dict[Condition, Response]]:
        """Prediction (and `OBSERVED`) -> condition -> its response in the first training seed."""
        return {arm: seeds[0].responses for arm, seeds in self.seeds.items()}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A `Summary` describes one population as it is scored."""

    tested: Tested
    """Against the control cells."""
    depth: np.ndarray
    """`QUANTILES` over the cells of their normalised counts on the panel [5]."""
    detected: np.ndarray
    """`QUANTILES` over the cells of their number of expressed genes [5]."""
    prints: Fingerprints | None
    """Fingerprints of the cells; None where nobody will look for copies."""


def summarise(cells: Population, tested: Tested, *, prints: bool) -> Summary:
    """Take from a population, log1p [n, G], what is kept of it; `prints` asks for fingerprints too."""
    depth, detected = _sizes(cells)
    return Summary(tested=tested, depth=depth, detected=detected, prints=Fingerprints.of(cells) if prints else None)


Parts = tuple[dict[str, dict[str, list[np.ndarray]]], dict[str, dict[int, Seed]]]
"""What `Summaries` hold: means by arm and context, and training seeds by arm and number."""


class Summaries:
    """`Summaries` collect `Profiles` context by context, the observed cells of each before its predictions."""

    def __init__(self, screen: Screen):
        self._screen = screen
        self._means: dict[str, dict[str, list[np.ndarray]]] = {}  # in the order of the first fields of `Profiles`
        self._seeds: dict[str, dict[int, Seed]] = {}
        self._observed: dict[str, Fingerprints] = {}

    def add(self, arm: str, context: str, side: Side, populations: Sequence[Summary], *, repeat: int = 0) -> None:
        """Add the populations of an arm in a context, in the order of `Screen.scored`.

        `repeat` is the training seed of a prediction; the pictures show the first, the flags look at all.
        """
        if repeat == 0:
            moments = [population.tested.moments for population in populations]
            pairs = zip(moments, populations, strict=True)
            each = [(of.zeros, of.variance, by.depth, by.detected) for of, by in pairs]
            self._means.setdefault(arm, {})[context] = [np.mean(part, axis=0) for part in zip(*each, strict=True)]
        if arm != OBSERVED and arm not in self._screen.predictions:
            return
        seed = self._seeds.setdefault(arm, {}).setdefault(repeat, Seed())
        seed.responses.update(self._respond(context, side))
        prints = {n: of.prints for n, of in zip(side.perturbations, populations, strict=True) if of.prints is not None}
        if arm == OBSERVED:
            self._observed[context] = Fingerprints.joined(list(prints.values()))
        else:
            seed.copies.update(self._count(context, prints))

    @property
    def parts(self) -> Parts:
        """What was added, for `join`."""
        return self._means, self._seeds

    def join(self, parts: Parts) -> None:
        """Add what others hold of other contexts."""
        for arm, means in parts[0].items():
            self._means.setdefault(arm, {}).update(means)
        for arm, seeds in parts[1].items():
            for number, theirs in seeds.items():
                own = self._seeds.setdefault(arm, {}).setdefault(number, Seed())
                own.responses.update(theirs.responses)
                own.copies.update(theirs.copies)

    def profiles(self) -> Profiles:
        """Return the summaries."""
        zeros, variances, depth, detected = (
            {arm: np.mean([of[place] for of in means.values()], axis=0) for arm, means in self._means.items()}
            for place in range(4)
        )
        return Profiles(
            zeros=zeros,
            variances=variances,
            depth=depth,
            detected=detected,
            seeds={arm: tuple(seeds.values()) for arm, seeds in self._seeds.items()},
            components=project(self._screen, self._strongest()),
        )

    def _strongest(self) -> Condition:
        observed = self._seeds[OBSERVED][0].responses
        return max(
            observed, key=lambda condition: (int(observed[condition].significant.sum()), observed[condition].cells)
        )

    @staticmethod
    def _respond(context: str, side: Side) -> dict[Condition, Response]:
        return {
            (context, name): Response(
                cells=tested.moments.cells,
                mean=tested.moments.mean.astype(np.float32),
                delta=delta.astype(np.float32),
                variance=tested.moments.variance.astype(np.float32),
                zeros=float(tested.moments.zeros.mean()),
                log_fold_change=np.log2(tested.fold_change).astype(np.float32),
                rate=rate.astype(np.float32),
            )
            for name, tested, delta, rate in zip(side.perturbations, side.tests, side.delta, side.rates, strict=True)
        }

    def _count(self, context: str, predicted: dict[str, Fingerprints]) -> dict[Condition, Copies]:
        controls = Fingerprints.of(self._screen.control_cells(context))
        of_others = shared(predicted)
        counts = {}
        for name, own in predicted.items():
            is_control = own.found_in(controls)
            counts[context, name] = Copies(
                cells=len(own),
                distinct=own.distinct(),
                of_observed=int(own.found_in(self._observed[context]).sum()),
                of_controls=int(is_control.sum()),
                of_others=int((of_others[name] & ~is_control).sum()),
            )
        return counts


def _sizes(cells: Population) -> tuple[np.ndarray, np.ndarray]:
    """Return `QUANTILES` over the cells of their normalised counts and of their number of expressed genes [5] each."""
    if isinstance(cells, np.ndarray):
        blocks = [cells[start : start + _AT_ONCE] for start in range(0, len(cells), _AT_ONCE)]
        depth = np.concatenate([np.expm1(block).sum(axis=1) for block in blocks])
        detected = np.concatenate([np.count_nonzero(block, axis=1) for block in blocks])
    else:
        depth = row_sums(np.expm1(cells.data, dtype=np.float64), cells.indptr)
        detected = np.diff(cells.indptr)
    return np.quantile(depth, QUANTILES), np.quantile(detected, QUANTILES)
