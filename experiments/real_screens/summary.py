"""Tables over folds and screens, from the scores of every arm, seed and condition."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bionemo.perteval.evaluation import Evaluation
from experiments.ablations.summary import mean_and_interval

METRICS = ("PDCorr", "DEOver", "DEPrec", "LFCSpear", "DirAgr", "MSE", "MAE", "n_de_predicted")
LOW = ("MSE", "MAE")
"""Metrics of which less is better."""
START, ALONE, WHOLE, BOTH, STATE = ARMS = (
    "linear start alone",
    "network alone",
    "whole network",
    "both",
    "STATE",
)
TRANSFERRED, HALVES, BEST = "control mean + transferred delta", "split halves", "best simple baseline"
PAIRS = (
    *((BOTH, START), (WHOLE, START), (ALONE, START), (BOTH, TRANSFERRED), (BOTH, BEST)),
    *((ALONE, STATE), (WHOLE, STATE), (BOTH, STATE)),
)
"""Arms whose difference is shown, the first less the second."""


def rows_of(evaluation: Evaluation) -> pd.DataFrame:
    """Return a row of scores for each kind of control cells, arm, seed and condition."""
    tables = []
    for kind in evaluation.kinds:
        others = kind.per_perturbation[~kind.per_perturbation["arm"].isin(kind.predictions)]
        table = pd.concat([kind.per_seed, others.assign(seed=0)])
        arms = [kind.arms[name].kind for name in table["arm"]]
        tables.append(table.assign(controls=str(kind.controls), kind=arms))
    return pd.concat(tables)


def write_summary(folds: dict[str, dict], failed: list[str], out: Path) -> None:
    """Write ``results.json`` and ``table.md``.

    Parameters
    ----------
    folds
        Fold -> ``rows``, its scores, and the commands, choices and versions of its trainings; empty where it has none.
    failed
        Folds in which something failed; they are named in both files.
    out
        Folder.
    """
    measured = {name: facts for name, facts in folds.items() if facts}
    rows = pd.concat([facts["rows"] for facts in measured.values()])
    kept = {name: {key: value for key, value in facts.items() if key != "rows"} for name, facts in measured.items()}
    scores = means_of(rows).reset_index().to_dict("records")
    results = {"failed": failed, "folds": kept, "scores": [without_nan(record) for record in scores]}
    results["differences"] = [
        without_nan({"group": group, "first": first, "second": second, "metric": metric, "mean": mean, "low": low})
        | without_nan({"high": high})
        for group, own in _of_independent(rows).groupby("group", sort=False)
        for first, second in PAIRS
        for metric in METRICS
        for mean, low, high in [difference(own, first, second, metric)]
    ]
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "table.md").write_text(markdown(rows, failed))


def markdown(rows: pd.DataFrame, failed: list[str] | None = None) -> str:
    """Return tables: the arms beside the best baseline, differences with intervals, every arm, and every fold."""
    parts = [f"Not measured: {', '.join(failed)}."] if failed else []
    means: Any = means_of(rows)
    shown = arms_of(rows["arm"])
    for group, own in rows.groupby("group", sort=False):
        of_group = means.loc[group]
        conditions = own[["fold", "context", "perturbation"]].drop_duplicates()
        parts.append(
            f"**{group}**: {len(conditions)} conditions in {own['fold'].nunique()} folds, "
            f"{own.loc[own['arm'].isin(ARMS), 'seed'].nunique()} seeds\n\n" + headline(of_group, shown)
        )
        parts.append(difference_table(_of_independent(own)))
        parts += [
            f"All arms, {mode} control cells\n\n{_arm_table(of_group.loc[mode])}" for mode in of_group.index.levels[0]
        ]
    return "\n\n".join([*parts, _fold_table(_of_independent(rows), shown)]) + "\n"


def arms_of(measured: Iterable[str]) -> list[str]:
    """Return those of `ARMS` that were measured at all, in their order."""
    return [arm for arm in ARMS if arm in set(measured)]


def headline(means: Any, shown: Sequence[str]) -> str:
    """Return a row a metric, independent control cells first; the best baseline is chosen for each by its own score.

    Parameters
    ----------
    means
        Of one screen, index (controls, kind, arm).
    shown
        Predictions that have a column.
    """
    lines = [("", *shown, BEST, HALVES), ("---", *["---:"] * len(shown), "---", "---:")]
    for mode in ("independent", "shared"):
        if mode not in means.index.levels[0]:
            continue
        arms = means.loc[mode].droplevel("kind")
        for metric in METRICS[:-2]:
            best = best_baseline(means.loc[mode], metric)
            own = [number_text(arms[metric].get(arm)) for arm in shown]
            name = metric if mode == "independent" else f"{metric}, {mode} controls"
            lines.append(
                (name, *own, f"{number_text(arms[metric][best])} {best}", number_text(arms[metric].get(HALVES)))
            )
    return _lines(lines)


def best_baseline(means: Any, metric: str) -> str:
    """Return the baseline with the best mean of a metric; the index is (kind, arm)."""
    values = means.loc["baseline", metric].dropna()
    return str(values.idxmin() if metric in LOW else values.idxmax())


def difference(rows: Any, first: str, second: str, metric: str) -> tuple[float, float, float]:
    """Return the mean of an arm's score less another's over seeds and conditions, and its 95 % interval.

    Parameters
    ----------
    rows
        Of one screen and kind of control cells.
    first, second
        The arms; that of several seeds as the second is averaged over them.
    metric
        Which; for :data:`BEST` it says the baseline.
    """
    if second == BEST:
        second = best_baseline(rows.groupby(["kind", "arm"])[list(METRICS)].mean(), metric)
    tables = [
        rows[rows["arm"] == arm].pivot_table(index="seed", columns=["context", "perturbation"], values=metric)
        for arm in (first, second)
    ]
    if any(table.empty for table in tables):
        return np.nan, np.nan, np.nan
    return mean_and_interval((tables[0] - tables[1].mean()).to_numpy())


def means_of(rows: Any) -> pd.DataFrame:
    """Return means over conditions and seeds of a context, then over the contexts.

    The index is (group, controls, kind, arm).
    """
    keys = ["group", "controls", "kind", "arm"]
    of_context = rows.groupby([*keys, "context"], sort=False)[list(METRICS)].mean()
    # Rounded here, so that the tables are those of the numbers that are kept.
    return of_context.groupby(keys, sort=False).mean().round(6)


def kept_means(results: dict) -> pd.DataFrame:
    """Return the means that ``results.json`` keeps, with the index (group, controls, kind, arm)."""
    return pd.DataFrame(results["scores"]).set_index(["group", "controls", "kind", "arm"]).astype(float)


def _of_independent(rows: Any) -> pd.DataFrame:
    return rows[rows["controls"] == "independent"]


def difference_table(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]] = PAIRS) -> str:
    """Return a row for each pair of arms: the first less the second, in the scores with independent control cells."""
    metrics = METRICS[:-2]
    lines = [("independent control cells", *metrics), ("---", *["---:"] * len(metrics))]
    for first, second in pairs:
        found = [difference(rows, first, second, metric) for metric in metrics]
        if not all(np.isnan(mean) for mean, *_ in found):
            lines.append((f"{first} − {second}", *map(difference_text, found)))
    return _lines(lines)


def _arm_table(means: Any) -> str:
    order = {"prediction": 0, "baseline": 1, "oracle": 2, "ceiling": 3}
    best = {metric: best_baseline(means, metric) for metric in METRICS[:-1]}
    lines = [("arm", *METRICS[:-1], "predicted DE genes"), ("---", *["---:"] * len(METRICS))]
    for (kind, arm), scores in sorted(means.iterrows(), key=lambda item: order[item[0][0]]):
        cells = [number_text(scores[metric], 0 if metric == METRICS[-1] else 3) for metric in METRICS]
        cells = [
            f"**{text}**" if best.get(metric) == arm else text for metric, text in zip(METRICS, cells, strict=True)
        ]
        lines.append((f"{arm} ({kind})" if kind in ("oracle", "ceiling") else arm, *cells))
    return _lines(lines)


def _fold_table(rows: Any, arms: Sequence[str]) -> str:
    shown = [*arms, TRANSFERRED, HALVES]
    means = rows.pivot_table(index="fold", columns="arm", values="PDCorr", sort=False)
    lines = [("fold", *shown), ("---", *["---:"] * len(shown))]
    lines += [(str(fold), *(number_text(scores.get(arm)) for arm in shown)) for fold, scores in means.iterrows()]
    return "PDCorr, fold by fold, independent control cells\n\n" + _lines(lines)


def _lines(lines: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def difference_text(found: tuple[float, float, float]) -> str:
    """Return a difference and its interval; in bold where the interval leaves out 0."""
    if np.isnan(found[0]):
        return "–"
    mean, low, high = (_short(f"{value:+.3f}") for value in found)
    text = f"{mean} ({low} to {high})"
    return f"**{text}**" if found[1] * found[2] > 0 else text


def number_text(value: float | None, places: int = 3) -> str:
    """Return a number as tables show it; a dash where there is none."""
    if value is None or np.isnan(value):
        return "–"
    return _short(f"{value:.{places}f}")


def _short(number: str) -> str:
    """Return a number without the 0 before its point, and with a true minus sign."""
    return re.sub(r"^([+-]?)0\.", r"\1.", number).replace("-", "−")


def without_nan(record: dict) -> dict:
    """Return a record as JSON can have it."""
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in record.items()}
