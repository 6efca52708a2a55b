"""Place every condition in strata: how nearly baselines solve it, and how strong its effect is.

Means over all conditions mix those that a simple baseline has solved with those where something is left to predict.
The share that a baseline has of the way between a negative and a positive control is the *baseline saturation* of a
condition (OpenReview U5Gq071xcI, 2026, which finds that networks win on resistant conditions).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from bionemo.perteval.metrics.calibration import best_of, better_by
from bionemo.perteval.metrics.intervals import compare
from bionemo.perteval.metrics.registry import FEW_DE_GENES, STRONG_EFFECT, Metric
from bionemo.perteval.populations.ceiling import spearman_brown

SATURATED, RESISTANT = 0.8, 0.5
"""Saturation from which on a condition is saturated, and below which it is resistant. The paper's own cuts are not in
its abstract; these are this package's."""

DIFFICULTIES = ("saturated", "middle", "resistant", "unmeasured")
STRENGTHS = ("weak", "middle", "strong")
METRIC = "PDCorr"
"""The metric that says how nearly a condition is solved."""


def place(scores: pd.DataFrame, *, baseline: str, negative: str, replicate: str) -> pd.DataFrame:
    """Return the strata of every scored condition.

    Parameters
    ----------
    scores
        One row per arm, context and perturbation.
    baseline, negative, replicate
        Arm whose saturation counts, the best baseline; arm that counts as 0; arm that counts as 1 after Spearman-Brown,
        one half of the cells against the other.

    Returns
    -------
    pd.DataFrame
        Index: (context, perturbation). ``saturation`` is (baseline - negative) / (replicate - negative) of `METRIC`,
        NaN where the replicate is not better than the negative control; ``difficulty`` is one of `DIFFICULTIES`, by
        `SATURATED` and `RESISTANT`, "unmeasured" without a saturation; ``de_genes`` is the number of observed DE genes
        and ``strength`` one of `STRENGTHS`, by `FEW_DE_GENES` and `STRONG_EFFECT`.
    """
    by_arm = scores.pivot(index=["context", "perturbation"], columns="arm", values=METRIC)
    below = by_arm[negative].fillna(0.0)  # no shift at all has no correlation
    way = spearman_brown(by_arm[replicate].to_numpy()) - below
    saturation = (by_arm[baseline] - below) / way.where(way > 0)
    difficulty = np.select(
        [saturation >= SATURATED, saturation < RESISTANT, saturation.notna()],
        ["saturated", "resistant", "middle"],
        "unmeasured",
    )
    genes = scores[scores["arm"] == baseline].set_index(["context", "perturbation"])["n_de_observed"]
    genes = genes.reindex(saturation.index)
    strength = np.select([genes < FEW_DE_GENES, genes >= STRONG_EFFECT], ["weak", "strong"], "middle")
    return pd.DataFrame(
        {"saturation": saturation, "difficulty": difficulty, "de_genes": genes, "strength": strength},
        index=saturation.index,
    )


def ahead(
    scores: pd.DataFrame,
    placed: pd.DataFrame,
    *,
    predictions: Sequence[str],
    baselines: Sequence[str],
    metrics: Sequence[Metric],
    seed: int = 0,
) -> pd.DataFrame:
    """Compare every prediction with the best baseline, over all conditions and in every stratum, metric by metric.

    The cells that a condition is placed by are those that it is scored on, so baselines look somewhat better than they
    are among saturated conditions and somewhat worse among resistant ones. That the best is chosen in each stratum, by
    the metric itself, works against the second. `scores` are as of `place`, and `placed` is its result; the metrics
    have a better direction.

    Returns
    -------
    pd.DataFrame
        One row per way of placing (``by``: all, difficulty, strength), stratum that has conditions, prediction
        (``arm``) and metric. ``conditions`` of the stratum; ``value`` of the prediction; ``baseline``, its name, and
        ``baseline_value``; ``difference`` is how much better the prediction is (above 0 where it is), with its
        bootstrap interval ``low`` and ``high``. All three are NaN where no baseline has a value.
    """
    here = pd.MultiIndex.from_frame(pd.DataFrame(scores[["context", "perturbation"]]))
    columns = [metric.name for metric in metrics]
    rows = []
    for by, stratum, conditions in _groups(placed):
        mine = pd.DataFrame(scores[here.isin(conditions)])
        of_context = mine.groupby(["arm", "context"], sort=False)[columns].mean()
        table = pd.DataFrame(of_context.groupby("arm", sort=False).mean())
        best = {metric.name: best_of(table, baselines, metric) or baselines[0] for metric in metrics}
        pairs = [(arm, baseline) for arm in predictions for baseline in dict.fromkeys(best.values())]
        compared = compare(mine, pairs, columns, seed=seed)
        for arm in predictions:
            for metric in metrics:
                baseline = best[metric.name]
                row = {
                    "by": by,
                    "stratum": stratum,
                    "conditions": len(conditions),
                    "arm": arm,
                    "metric": metric.name,
                    "value": table.loc[arm, metric.name],
                    "baseline": baseline,
                    "baseline_value": table.loc[baseline, metric.name],
                }
                rows.append(row | better_by(compared.loc[(arm, baseline, metric.name)], metric))
    return pd.DataFrame(rows)


def _groups(placed: pd.DataFrame) -> Iterator[tuple[str, str, pd.Index]]:
    """Yield the way of placing, the stratum and its conditions, of the strata that have any."""
    yield "all", "all", placed.index
    for by, names in (("difficulty", DIFFICULTIES), ("strength", STRENGTHS)):
        for name in names:
            if len(conditions := placed.index[placed[by] == name]):
                yield by, name, conditions
