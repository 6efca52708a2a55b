"""Tables of predictions of perturbations that were trained on in one context, told of, or unknown."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.real_screens.summary import difference, difference_text, number_text

KNOWN = ("trained on", "told of")
"""Ways to know the new perturbations' cells of one context."""
UNKNOWN = "control mean + mean delta"
"""What is predicted of a perturbation of which nothing is known."""
METRICS = ("PDCorr", "DEOver", "DEPrec", "LFCSpear", "DirAgr", "MSE")
BESIDE = ("control mean + transferred delta", UNKNOWN, "split halves")
START = "linear start alone"
"""The arm of the model without its network."""


def write_summary(screens: dict[str, dict], out: Path) -> None:
    """Write ``results.json`` and ``table.md``.

    Parameters
    ----------
    screens
        Screen -> ``rows``, its scores, and the commands, choices and versions of its trainings.
    out
        Folder.
    """
    results, parts = {}, []
    for name, facts in screens.items():
        rows = facts.pop("rows")
        results[name] = facts | {"scores": json.loads(_means(rows).reset_index().to_json(orient="records") or "")}
        results[name]["differences"] = [
            {"first": first, "second": second, "metric": metric, "mean": mean, "low": low, "high": high}
            for first, second in pairs(rows)
            for metric in METRICS
            for mean, low, high in [difference(rows, first, second, metric)]
        ]
        parts.append(f"**{name}**: {_size(rows)}\n\n{markdown(rows)}")
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "table.md").write_text("\n\n".join(parts) + "\n")


def pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the arms whose difference is shown, the first less the second."""
    trained, told = KNOWN
    arms = [arm.removeprefix(f"{told}, ") for arm in rows["arm"].unique() if arm.startswith(told)]
    found = [(f"{told}, {arm}", f"{trained}, {arm}") for arm in arms]
    found += [(f"{known}, {arm}", other) for arm in arms for known in KNOWN for other in BESIDE[:2]]
    return found + [(f"{told}, {arm}", f"{told}, {START}") for arm in arms if arm != START]


def markdown(rows: pd.DataFrame) -> str:
    """Return a table of means, and one of differences with intervals over seeds and conditions."""
    means: Any = _means(rows).droplevel("kind")
    arms = [arm for arm in means.index if arm.startswith(KNOWN)]
    lines = [("", *METRICS), ("---", *["---:"] * len(METRICS))]
    lines += [(arm, *(number_text(means.loc[arm, metric]) for metric in METRICS)) for arm in (*arms, *BESIDE)]
    second = [("difference", *METRICS), ("---", *["---:"] * len(METRICS))]
    second += [
        (f"{first} − {other}", *(difference_text(difference(rows, first, other, metric)) for metric in METRICS))
        for first, other in pairs(rows)
    ]
    return "\n\n".join("\n".join(f"| {' | '.join(line)} |" for line in table) for table in (lines, second))


def _means(rows: Any) -> pd.DataFrame:
    """Return means over conditions and seeds of a context, then over contexts."""
    of_context = rows.groupby(["kind", "arm", "context"], sort=False)[list(METRICS)].mean()
    return of_context.groupby(["kind", "arm"], sort=False).mean().round(6)


def _size(rows: pd.DataFrame) -> str:
    conditions = rows[["context", "perturbation"]].drop_duplicates()
    return f"{len(conditions)} conditions, {rows['seed'].nunique()} seeds"
