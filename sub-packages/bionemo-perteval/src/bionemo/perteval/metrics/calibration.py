"""Say which metrics tell a positive control from a negative one on this screen, and by how much.

After the metric calibration of Miller et al. 2026 (Nature Biotechnology): a metric in which a replicate of the
experiment is no better than a prediction that knows no perturbation cannot show that a model is good.
"""

from collections.abc import Sequence

import pandas as pd

from bionemo.perteval.metrics.intervals import compare
from bionemo.perteval.metrics.registry import Metric


def best_of(table: pd.DataFrame, arms: Sequence[str], metric: Metric) -> str | None:
    """Return the arm with the best mean score; None where none of them has one."""
    scores = metric.sign * table.loc[list(arms), metric.name].dropna()
    return None if scores.empty else str(scores.idxmax())


def better_by(compared: pd.Series, metric: Metric) -> dict[str, float]:
    """Return how much better the first of two compared arms is, above 0 where it is: difference, low and high."""
    low, high = sorted(metric.sign * float(compared[end]) for end in ("low", "high"))
    return {"difference": metric.sign * float(compared["difference"]), "low": low, "high": high}


def calibrate(
    scores: pd.DataFrame,
    table: pd.DataFrame,
    *,
    negatives: Sequence[str],
    positives: Sequence[str],
    metrics: Sequence[Metric],
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the best positive with the best negative control, metric by metric.

    Parameters
    ----------
    scores, table
        One row per arm, context and perturbation; means of them, with the arms as index.
    negatives, positives
        Arms that know no perturbation, and arms that are another measurement of the same cells.
    metrics
        Metrics that have a better direction.
    seed
        Seed of the bootstrap.

    Returns
    -------
    pd.DataFrame
        Index: metric. ``negative`` and ``positive`` are the two arms, ``difference`` is how much better the positive
        one is (above 0 where it is), with its bootstrap interval ``low`` and ``high``; ``separation`` is the difference
        in units of half its interval, ``wins`` the share of conditions where the positive control is better (ties count
        half), and ``tells`` whether the interval is above 0. NaN and False where a control has no score or there are
        too few conditions for an interval.
    """
    rows = {}
    for metric in metrics:
        negative, positive = (best_of(table, arms, metric) for arms in (negatives, positives))
        row = {"negative": negative, "positive": positive, "tells": False}
        rows[metric.name] = row | dict.fromkeys(("difference", "low", "high", "separation", "wins"), float("nan"))
        if negative is None or positive is None:
            continue
        compared = compare(scores, [(positive, negative)], [metric.name], seed=seed).iloc[0]
        found = better_by(compared, metric)
        half = (found["high"] - found["low"]) / 2
        by_condition = scores.pivot(index=["context", "perturbation"], columns="arm", values=metric.name)
        each = metric.sign * (by_condition[positive] - by_condition[negative]).dropna()
        rows[metric.name] |= found | {
            "separation": found["difference"] / half if half else float("nan"),
            "wins": float(((each > 0) + 0.5 * (each == 0)).mean()),
            "tells": found["low"] > 0,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")
