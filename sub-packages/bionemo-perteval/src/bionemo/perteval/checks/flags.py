"""Check whether predicted cells are copies, are on the scale, and spread like cells, which no metric sees.

A check of kind ``invalid`` says that the scores do not measure prediction; no baseline made from training cells raises
one. A check of kind ``caution`` says which scores to distrust; a baseline raises it where it is true of the baseline.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bionemo.perteval.checks.profiles import OBSERVED, Copies, Profiles, Response
from bionemo.perteval.metrics.registry import STRONG_EFFECT
from bionemo.screens.labels import Condition


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """`Evidence` is what the checks know of one prediction."""

    predicted: Mapping[Condition, Response]
    """Condition -> response."""
    observed: Mapping[Condition, Response]
    """The same conditions -> response."""
    copies: Mapping[Condition, Copies]
    """Condition -> cells that occur again."""

    def share(self, count: Callable[[Copies], int]) -> float:
        """Return the share of all predicted cells that `count` counts."""
        cells = sum(of.cells for of in self.copies.values())
        return sum(count(of) for of in self.copies.values()) / cells if cells else float("nan")

    def median(self, value: Callable[[Response, Response], float]) -> float:
        """Return the median over conditions of a function of the predicted and the observed response."""
        values = [value(self.predicted[condition], self.observed[condition]) for condition in self.predicted]
        finite = [each for each in values if np.isfinite(each)]
        return float(np.median(finite)) if finite else float("nan")


@dataclass(frozen=True, kw_only=True)
class Check:
    """A `Check` is one question to every prediction."""

    name: str
    """A few words."""
    kind: Literal["invalid", "caution"]
    definition: str
    """What the value is."""
    meaning: str
    """What it says about the scores where it lies outside the bounds."""
    value: Callable[[Evidence], float]
    """Takes the value from the evidence; NaN where there is nothing to judge."""
    low: float | None = None
    high: float | None = None
    """Both are bounds; None for none."""
    percent: bool = False
    """Whether the value is a share."""

    def raised(self, value: float) -> bool:
        """Say whether a value lies outside the bounds."""
        return (self.low is not None and value < self.low) or (self.high is not None and value > self.high)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A `Flag` is the answer of a check about one prediction."""

    arm: str
    check: Check
    value: float

    @property
    def raised(self) -> bool:
        """Whether the value lies outside the check's bounds."""
        return self.check.raised(self.value)


def flags(profiles: Profiles, predictions: Iterable[str]) -> list[Flag]:
    """Put every check to every prediction; of several training seeds the first that raises it speaks."""
    found = []
    observed = profiles.responses[OBSERVED]
    for arm in predictions:
        seeds = [
            Evidence(predicted=seed.responses, observed=observed, copies=seed.copies) for seed in profiles.seeds[arm]
        ]
        for check in CHECKS:
            values = [check.value(evidence) for evidence in seeds]
            found.append(Flag(arm=arm, check=check, value=next(filter(check.raised, values), values[0])))
    return found


def _error_to_noise(evidence: Evidence) -> float:
    """Return the squared error of the means over what the sampling of the observed cells alone would cause."""
    error = noise = 0.0
    for condition, predicted in evidence.predicted.items():
        observed = evidence.observed[condition]
        error += float(np.square(predicted.mean.astype(np.float64) - observed.mean).sum())
        noise += float(observed.variance.sum(dtype=np.float64)) / max(observed.cells - 1, 1)
    return error / noise if noise else float("nan")


def _ratio(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Return the sum over genes of the predicted values over that of the observed ones."""
    total = float(observed.sum(dtype=np.float64))
    return float(predicted.sum(dtype=np.float64)) / total if total else float("nan")


def _effect_size(evidence: Evidence) -> float:
    """Return the length of the predicted over that of the observed shifts, of strong effects where there are any."""
    strong = [c for c, response in evidence.observed.items() if response.significant.sum() >= STRONG_EFFECT]
    square = [
        sum(float(np.square(side[c].delta, dtype=np.float64).sum()) for c in strong or evidence.predicted)
        for side in (evidence.predicted, evidence.observed)
    ]
    return float(np.sqrt(square[0] / square[1])) if square[1] else float("nan")


def _excess_of_de_genes(evidence: Evidence) -> float:
    excess = [
        predicted.significant.mean() - evidence.observed[condition].significant.mean()
        for condition, predicted in evidence.predicted.items()
    ]
    return float(np.mean(excess))


CHECKS: tuple[Check, ...] = (
    Check(
        name="observed cells",
        kind="invalid",
        definition="Predicted cells that express the same genes at the same values as an observed cell of a scored "
        "perturbation.",
        meaning="Cells of the answer stand in the prediction.",
        value=lambda evidence: evidence.share(lambda copies: copies.of_observed),
        high=0.01,
        percent=True,
    ),
    Check(
        name="error below noise",
        kind="invalid",
        definition="Squared error of the predicted means over the sampling variance of the observed means. Whoever has "
        "not seen the observed cells cannot expect less than 1.",
        meaning="The means are nearer to the observed cells than a prediction can be: they were made from them.",
        value=_error_to_noise,
        low=0.5,
    ),
    Check(
        name="scale",
        kind="invalid",
        definition="Sum over genes of the predicted over that of the observed mean, log1p; median over conditions.",
        meaning="The values are on another scale: counts, another base of the logarithm or another target sum.",
        value=lambda evidence: evidence.median(lambda predicted, observed: _ratio(predicted.mean, observed.mean)),
        low=0.6,
        high=1 / 0.6,
    ),
    Check(
        name="spread",
        kind="caution",
        definition="Variance inside the predicted over that inside the observed populations, summed over genes; median "
        "over conditions.",
        meaning="Cells are too alike or too unlike, and the tests behind DEOver and DEPrec see it in every gene.",
        value=lambda evidence: evidence.median(
            lambda predicted, observed: _ratio(predicted.variance, observed.variance)
        ),
        low=0.5,
        high=2.0,
    ),
    Check(
        name="zeros",
        kind="caution",
        definition="Fraction of zeros in the predicted less that in the observed populations; median over conditions.",
        meaning="Zeros are smeared or invented, so that genes are called DE that are not.",
        value=lambda evidence: evidence.median(lambda predicted, observed: predicted.zeros - observed.zeros),
        low=-0.1,
        high=0.1,
    ),
    Check(
        name="effect size",
        kind="caution",
        definition="Length of the predicted over that of the observed shifts, over strong effects where there are any.",
        meaning="Effects are scaled up, which correlations do not see and tests reward.",
        value=_effect_size,
        high=2.0,
    ),
    Check(
        name="excess of DE genes",
        kind="caution",
        definition="Share of genes that is DE in the prediction less the share that is DE in the observed cells; mean "
        "over conditions.",
        meaning="Far too many genes are called, which raises DEOver and DERecall for nothing.",
        value=_excess_of_de_genes,
        high=0.35,
        percent=True,
    ),
    Check(
        name="repeated cells",
        kind="caution",
        definition="Cells that repeat another cell of their population.",
        meaning="The population is a few cells many times over, and tests take each copy for a cell.",
        value=lambda evidence: evidence.share(lambda copies: copies.cells - copies.distinct),
        high=0.6,
        percent=True,
    ),
    Check(
        name="one population for several",
        kind="caution",
        definition="Predicted cells that occur under another perturbation of the context as well, control cells apart.",
        meaning="The prediction does not depend on the perturbation; PDS shows it.",
        value=lambda evidence: evidence.share(lambda copies: copies.of_others),
        high=0.5,
        percent=True,
    ),
    Check(
        name="control cells",
        kind="caution",
        definition="Predicted cells that are observed control cells of the context, unchanged.",
        meaning="The prediction is that nothing happens.",
        value=lambda evidence: evidence.share(lambda copies: copies.of_controls),
        high=0.5,
        percent=True,
    ),
)
"""Every check, in the order of the report."""
