"""Say how sure a mean score is: bootstrap over contexts and perturbations, and paired comparison of two arms.

Cells are not resampled: a score of one perturbation is one observation, whatever number of cells stands behind it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bionemo.perteval.inputs.screen import generator

DRAWS = 2000
"""Bootstrap draws."""

LEVEL = 0.95
"""Share of the draws inside an interval."""


def means(values: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    """Return the mean over contexts of the means over their perturbations, values that are missing left out [M].

    `values` and `contexts` are as of `bootstrap`.
    """
    return np.asarray(pd.DataFrame(values).groupby(contexts).mean().mean())


def bootstrap(values: np.ndarray, contexts: np.ndarray, *, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Return percentile intervals of `means` under resampling of contexts and of perturbations inside each.

    Every draw takes as many contexts as there are, with replacement, and for each of them as many of its perturbations
    as it has, with replacement: the two-level bootstrap of Davison and Hinkley 1997, section 3.8. With one context it
    is a bootstrap over perturbations, with one perturbation in each context one over contexts.

    Parameters
    ----------
    values
        One row a (context, perturbation), NaN where a metric has no value [N, M].
    contexts
        Number of the context of each row [N].

    Returns
    -------
    np.ndarray
        Low and high ends [2, M]; NaN where there is one row with a value.
    """
    rng = generator(seed, "bootstrap")
    known = np.unique(contexts)
    chosen = rng.integers(known.size, size=(draws, known.size))
    sums = np.zeros((draws, values.shape[1]))
    counts = np.zeros_like(sums)
    present = ~np.isnan(values)
    filled = np.where(present, values, 0.0)
    for place, context in enumerate(known):
        rows = contexts == context
        size = int(rows.sum())
        draw, _ = np.nonzero(chosen == place)
        if not draw.size:
            continue
        times = rng.multinomial(size, np.full(size, 1 / size), size=draw.size).astype(np.float64)
        having = times @ present[rows]
        mean = np.divide(times @ filled[rows], having, out=np.zeros_like(having), where=having > 0)
        of_draw, starts = np.unique(draw, return_index=True)  # a draw may take a context several times
        sums[of_draw] += np.add.reduceat(mean, starts)
        counts[of_draw] += np.add.reduceat((having > 0).astype(np.float64), starts)
    drawn = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    ends = np.full((2, values.shape[1]), np.nan)
    tail = (1 - LEVEL) / 2
    for column in np.flatnonzero(present.sum(axis=0) > 1):
        ends[:, column] = np.nanquantile(drawn[:, column], [tail, 1 - tail])
    return ends


def intervals(scores: pd.DataFrame, metrics: list[str], *, seed: int = 0) -> pd.DataFrame:
    """Return low and high end of every arm's mean scores, by (arm, metric); all arms share the draws.

    `scores` have one row per arm, context and perturbation.
    """
    by_arm = {str(arm): _of_arm(rows, metrics) for arm, rows in scores.groupby("arm", sort=False)}
    conditions = next(iter(by_arm.values())).index
    values = np.hstack([rows.reindex(conditions).to_numpy(np.float64) for rows in by_arm.values()])
    low, high = bootstrap(values, _context_numbers(conditions), seed=seed)
    index = pd.MultiIndex.from_product([list(by_arm), metrics], names=["arm", "metric"])
    return pd.DataFrame({"low": low, "high": high}, index=index)


def compare(
    scores: pd.DataFrame, pairs: Sequence[tuple[str, str]], metrics: list[str], *, seed: int = 0
) -> pd.DataFrame:
    """Compare pairs of arms over the conditions where both have a value; all pairs share the draws.

    `scores` have one row per arm, context and perturbation.

    Returns
    -------
    pd.DataFrame
        Index: (first, second, metric). ``difference`` is first minus second, with its bootstrap interval ``low`` and
        ``high``; ``p_value`` is of the two-sided Wilcoxon signed-rank test over (context, perturbation), not corrected
        for the number of comparisons; ``conditions`` is how many there are.
    """
    asked = {arm for pair in pairs for arm in pair}
    by_arm = {arm: _of_arm(pd.DataFrame(scores[scores["arm"] == arm]), metrics) for arm in asked}
    conditions = by_arm[pairs[0][0]].index
    sides = {arm: rows.reindex(conditions).to_numpy(np.float64) for arm, rows in by_arm.items()}
    values = np.hstack([sides[first] - sides[second] for first, second in pairs])
    contexts = _context_numbers(conditions)
    low, high = bootstrap(values, contexts, seed=seed)
    table = pd.DataFrame(
        {
            "difference": means(values, contexts),
            "low": low,
            "high": high,
            "p_value": [_signed_rank(column) for column in values.T],
            "conditions": (~np.isnan(values)).sum(axis=0),
        }
    )
    rows = [(first, second, metric) for first, second in pairs for metric in metrics]
    table.index = pd.MultiIndex.from_tuples(rows, names=["first", "second", "metric"])
    return table


def _of_arm(rows: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows.set_index(["context", "perturbation"])[metrics])


def _context_numbers(conditions: pd.Index) -> np.ndarray:
    return np.unique(conditions.get_level_values("context"), return_inverse=True)[1]


_EXACT = 50
"""Differences up to which all signs are counted; above, the normal approximation."""


def _signed_rank(differences: np.ndarray) -> float:
    """Return the p value of Wilcoxon's signed-rank test; NaN below two values, 1 where all are zero.

    Exact up to `_EXACT` differences, ties included, where scipy draws permutations one by one.
    """
    values = differences[~np.isnan(differences)]
    if values.size < 2:
        return float("nan")
    # Differences of rounding only would otherwise be ranked.
    values = values[np.abs(values) >= 1e-12]
    if not values.size:
        return 1.0
    if values.size > _EXACT:
        return float(stats.wilcoxon(values, method="asymptotic").pvalue)  # type: ignore[union-attr]
    ranks = np.rint(2 * stats.rankdata(np.abs(values))).astype(np.int64)  # ties have half ranks: twice them is whole
    ways = np.zeros(int(ranks.sum()) + 1)
    ways[0] = 1.0
    for rank in ranks:
        ways[rank:] = ways[rank:] + ways[:-rank]
    ways /= ways.sum()
    positive = int(ranks[values > 0].sum())
    return float(min(1.0, 2 * min(ways[: positive + 1].sum(), ways[positive:].sum())))
