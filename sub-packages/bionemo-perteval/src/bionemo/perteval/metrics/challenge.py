"""Compute the members of the Virtual Cell Challenge 2026 of a panel, and put them together to one score.

The definitions are those of the challenge's metric reference (cell-eval2, docs/vcc2026_metrics), sections 1 to 8.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bionemo.perteval.metrics.panel import FDR, Groups

MEMBERS = {
    "pds_cosine": "PDS",
    "expr_mse_unbiased_capped_norm": "MSE",
    "de_wilcoxon_direction_fidelity_yield_raw": "fidelity",
    "de_wilcoxon_direction_reach_raw": "reach",
    "de_wilcoxon_sig_jaccard": "Jaccard",
    "de_wilcoxon_lfc_nmae": "LFC nMAE",
}
"""Name in cell-eval2 -> head of the tables."""

_LOWER = ("expr_mse_unbiased_capped_norm", "de_wilcoxon_lfc_nmae")
_CLAMPS = {"expr_mse_unbiased_capped_norm": (0.0, 1.0), "de_wilcoxon_lfc_nmae": (-6.0, np.inf)}
_PURITY = 0.9
_SMALLEST_GATE = 10


def values(predicted: Groups, observed: Groups, own: np.ndarray, genes: np.ndarray) -> dict[str, float]:
    """Return member -> its value over a panel; a member without one is left out.

    Both sides have the same perturbations in the same order. `own` says whether a perturbation targets a gene, bool [P,
    G]; the names of the genes [G] are the last word where calls are equally sure.
    """
    called, true = (predicted.rate < FDR) & ~own, (observed.rate < FDR) & ~own
    both = predicted.controls.tested & observed.controls.tested & ~own
    # A true change of zero says nothing about direction.
    adjudicable = both & (np.nan_to_num(observed.change) != 0)
    match = adjudicable & (np.sign(predicted.change) == np.sign(observed.change))
    found = {
        "pds_cosine": discrimination(predicted, observed, own.any(axis=0)),
        "expr_mse_unbiased_capped_norm": expression_error(predicted, observed, own),
        "de_wilcoxon_direction_fidelity_yield_raw": _mean(
            _ratio(
                (called & match).sum(axis=1), np.maximum((called & adjudicable).sum(axis=1), true.sum(axis=1))
            )
        ),
        "de_wilcoxon_direction_reach_raw": _mean(
            [_reach(predicted, place, true[place] & both[place], adjudicable[place], match[place], genes) / count
             if count else np.nan
             for place, count in enumerate(true.sum(axis=1))]
        ),
        "de_wilcoxon_sig_jaccard": _mean(
            _ratio((called & true).sum(axis=1), (called | true).sum(axis=1), otherwise=1.0)
        ),
        "de_wilcoxon_lfc_nmae": change_error(predicted.change, observed.change, observed.change, true),
    }  # fmt: skip
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def discrimination(predicted: Groups, observed: Groups, left_out: np.ndarray) -> float:
    """Return the mean place of the true among all observed effects by cosine distance, 1 where it is the first.

    Effects are differences of profiles from control; `left_out` [G] are the genes that any perturbation targets.
    """
    theirs = (predicted.profiles - predicted.controls.profile)[:, ~left_out]
    ours = (observed.profiles - observed.controls.profile)[:, ~left_out]
    lengths = np.linalg.norm(theirs, axis=1)[:, None] * np.linalg.norm(ours, axis=1)[None, :]
    cosine = np.divide(theirs @ ours.T, lengths, out=np.zeros_like(lengths), where=lengths != 0)
    distance = np.clip(1 - cosine, 0.0, 2.0)
    match = np.diagonal(distance)[:, None]
    rank = (distance < match).sum(axis=1) + ((distance == match).sum(axis=1) - 1) / 2
    return float(np.mean(1 - rank / (len(rank) - 1)))


def expression_error(predicted: Groups, observed: Groups, own: np.ndarray) -> float:
    """Return the squared errors of the profiles over the squared effects, both less their sampling noise.

    The noise that a prediction is credited with is at most that of the observed cells, and at most what its profiles
    differ between perturbations. NaN where the observed effects sum to nothing.
    """
    kept = ~own
    number = kept.sum(axis=1)
    credit = np.minimum(predicted.noise, observed.noise)
    claim = float((credit / number).sum())
    if claim > 0:
        credit = credit * min(1.0, _spread(predicted.profiles, kept, 1 / number) / claim)
    error = (np.where(own, 0.0, predicted.profiles - observed.profiles) ** 2).sum(axis=1) - credit - observed.noise
    effect = (np.where(own, 0.0, observed.profiles - observed.controls.profile) ** 2).sum(axis=1)
    effect = effect - observed.noise - observed.controls.noise
    total = float((effect / number).sum())
    return float((error / number).sum()) / total if total > 0 else np.nan


def change_error(predicted: np.ndarray, observed: np.ndarray, whole: np.ndarray, gate: np.ndarray) -> float:
    """Return the mean absolute error of fold changes over the mean absolute fold change.

    Parameters
    ----------
    predicted, observed
        log2 fold changes [P, G]; one that is not finite counts as none.
    whole
        Those of all observed cells [P, G], which the error is divided by.
    gate
        Significant genes of all observed cells [P, G]; a perturbation with fewer than ten has no value.
    """
    gate = gate & np.isfinite(whole)
    change = [np.where(gate & np.isfinite(part), part, 0.0) for part in (predicted, observed, whole)]
    enough = gate.sum(axis=1) >= _SMALLEST_GATE
    errors = np.abs(change[0] - change[1]).sum(axis=1)[enough]
    return _mean(_ratio(errors, np.abs(change[2]).sum(axis=1)[enough]))


def scale(found: Mapping[str, float], zero: Mapping[str, float], one: Mapping[str, float]) -> dict[str, float]:
    """Return member -> its place between two points, with the challenge's clamps; without the one point no place."""
    scaled = {}
    for name in MEMBERS:
        if name not in found or name not in zero or name not in one:
            continue
        way = one[name] - zero[name]
        if (way < 0) == (name in _LOWER) and way != 0:
            low, high = _CLAMPS.get(name, (-np.inf, np.inf))
            scaled[name] = float(np.clip((found[name] - zero[name]) / way, low, high))
    return scaled


def overview(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scaled members and their mean, the score, from rows as `engines.challenge.score_panels` has them.

    Returns
    -------
    pd.DataFrame
        Index: arm. Columns: the values of `MEMBERS`, then ``score``. Means over training seeds, then over contexts; NaN
        where one of them has no value, because a mean over fewer members or contexts would be of another panel.
    """
    panels = scores.pivot(index=["arm", "context", "seed"], columns="member", values="scaled")
    panels = panels.reindex(columns=list(MEMBERS)).rename(columns=MEMBERS)
    panels["score"] = panels.mean(axis=1, skipna=False)
    of_context = panels.groupby(["arm", "context"], sort=False).agg(lambda values: values.mean(skipna=False))
    table = of_context.groupby("arm", sort=False).agg(lambda values: values.mean(skipna=False))
    table.columns.name = None
    return pd.DataFrame(table)


def _spread(profiles: np.ndarray, kept: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted sum of squares of profiles [P, G] around their mean, gene by gene, where they are kept."""
    away = profiles - profiles.mean(axis=0)
    weight = weights[:, None] * kept
    total = weight.sum(axis=0)
    first, second = (weight * away).sum(axis=0), (weight * away**2).sum(axis=0)
    squares = second - np.divide(first**2, total, out=np.zeros_like(total), where=total > 0)
    return float(np.maximum(squares[kept.sum(axis=0) >= 2], 0.0).sum())


def _reach(
    predicted: Groups,
    place: int,
    pool: np.ndarray,
    adjudicable: np.ndarray,
    match: np.ndarray,
    genes: np.ndarray,
) -> int:
    """Return how many truly significant genes, the surest calls first, have nine directions in ten right."""
    rate, p_value, change = (of[place, pool] for of in (predicted.rate, predicted.p_value, predicted.change))
    order = np.lexsort((genes[pool], -np.abs(change), p_value, rate, rate >= FDR))
    counted, right = np.cumsum(adjudicable[pool][order]), np.cumsum(match[pool][order])
    pure = counted[_ratio(right, counted, otherwise=0.0) >= _PURITY]
    return int(pure.max(initial=0))


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), otherwise), where=np.asarray(below) != 0)


def _mean(values: np.ndarray | list[float]) -> float:
    """Return the mean of the values that there are."""
    there = np.asarray(values, dtype=np.float64)
    there = there[~np.isnan(there)]
    return float(there.mean()) if there.size else np.nan
