"""Say what the scores themselves have against being trusted: control noise, a passed ceiling, few DE genes, noise."""

from collections.abc import Iterator, Mapping
from functools import partial

import pandas as pd

from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics.calibration import better_by
from bionemo.perteval.metrics.registry import FEW_DE_GENES, Metric, headline
from bionemo.perteval.populations.ceiling import SPLIT_HALVES
from bionemo.perteval.report.text import enumerated, signed

MUCH_NOISE = 0.5
"""Share of noise in the observed shifts of a context from which on it is a warning."""

_SHIFT = "PDCorr"
_text = partial(signed, places=3)
_MOST_CONTEXTS = 10


def warnings(evaluation: Evaluation) -> list[str]:
    """Return one sentence for each thing that speaks against trusting the scores, the gravest first."""
    return [sentence for find in _REASONS.values() for sentence in find(evaluation)]


def reasons(evaluation: Evaluation) -> list[str]:
    """Return what the warnings are about, in a few words each, the gravest first."""
    return [reason for reason, find in _REASONS.items() if any(find(evaluation))]


def _control_noise(evaluation: Evaluation) -> Iterator[str]:
    """Name predictions whose shared score lies outside the interval of their independent one."""
    if evaluation.shared is None:
        return
    for arm in evaluation.predictions:
        low, high = (float(end) for end in evaluation.intervals.loc[(arm, _SHIFT)])
        own, shared = (float(of.table.loc[arm, _SHIFT]) for of in evaluation.kinds)  # type: ignore[arg-type]
        ceilings = [_text(float(of.table.loc[SPLIT_HALVES, _SHIFT])) for of in evaluation.kinds]  # type: ignore[arg-type]
        if shared > high:
            yield (
                f"{_SHIFT} of {arm} is {_text(shared)} with shared control cells and {_text(own)} with independent "
                f"ones (95 % interval {_text(low)} to {_text(high)}): shared cells put one noise into both shifts, "
                f"and it correlates with itself. The ceiling is {ceilings[1]} and {ceilings[0]}."
            )
        elif shared < low:
            yield (
                f"{_SHIFT} of {arm} is {_text(own)} with independent control cells (95 % interval {_text(low)} to "
                f"{_text(high)}) and {_text(shared)} with shared ones."
            )


def _other_verdicts(evaluation: Evaluation) -> Iterator[str]:
    """Name predictions that beat the baseline to beat under shared control cells alone."""
    if evaluation.shared is None:
        return
    for arm in evaluation.predictions:
        lost = [
            metric.name
            for metric in headline()
            if _better(evaluation.shared.comparisons, arm, evaluation.target, metric)
            and not _better(evaluation.comparisons, arm, evaluation.target, metric)
        ]
        if lost:
            yield (
                f"{arm} is ahead of {evaluation.target} in {enumerated(lost)} with shared control cells, but not with "
                "independent ones."
            )


def _passed_ceilings(evaluation: Evaluation) -> Iterator[str]:
    """Name predictions that are better than the split halves by more than the interval of the difference."""
    for of in evaluation.kinds:
        for arm in of.predictions:
            passed = [metric.name for metric in headline() if _better(of.beside_ceiling, arm, SPLIT_HALVES, metric)]
            if passed:
                yield (
                    f"{arm} passes the ceiling in {enumerated(passed)} with {of.controls} control cells: the split "
                    "halves have half of the cells and are noisier than a smooth prediction, so scores there tell good "
                    "predictions apart badly."
                )


def _few_de_genes(evaluation: Evaluation) -> Iterator[str]:
    mine = evaluation.per_perturbation[evaluation.per_perturbation["arm"] == evaluation.predictions[0]]
    few = int((mine["n_de_observed"] < FEW_DE_GENES).sum())
    if few:
        names = enumerated([metric.name for metric in headline() if metric.name.startswith("DE") or metric.of_de_genes])
        yield (
            f"{few} of {len(mine)} conditions have fewer than {FEW_DE_GENES} observed DE genes: {names} say next to "
            "nothing there; the strong effects are scored apart."
        )


def _noise(evaluation: Evaluation) -> Iterator[str]:
    """Name the contexts whose observed shifts are largely noise."""
    noisy = {context: share for context, share in evaluation.noise.items() if share >= MUCH_NOISE}
    if noisy:
        yield f"{noise_of(noisy)} Even the true shift would have a {_SHIFT} of no more than the root of what is left."


def noise_of(shares: Mapping[str, float]) -> str:
    """Say how much of the observed shifts is noise, in the noisiest contexts."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{min(max(share, 0.0), 1.0):.0%} in {context}" for context, share in ordered[:_MOST_CONTEXTS])
    further = (
        f" and no more in {len(ordered) - _MOST_CONTEXTS} further contexts" if len(ordered) > _MOST_CONTEXTS else ""
    )
    return f"Sampling noise, by split halves, is this share of the variance of observed shifts: {listed}{further}."


def _better(compared: pd.DataFrame, arm: str, other: str, metric: Metric) -> bool:
    """Say whether an arm is better than another by more than the interval of their difference."""
    return better_by(compared.loc[(arm, other, metric.name)], metric)["low"] > 0


_REASONS = {
    "the noise of shared control cells": _control_noise,
    "a lead with shared control cells alone": _other_verdicts,
    "scores above the ceiling": _passed_ceilings,
    "conditions with few DE genes": _few_de_genes,
    "shifts that are mostly noise": _noise,
}
"""What a warning is about -> its sentences."""
