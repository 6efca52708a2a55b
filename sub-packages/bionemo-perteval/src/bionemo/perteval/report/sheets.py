"""Put the numbers of an evaluation into the tables of the page: heads, rows and cells as text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bionemo.perteval.checks.flags import CHECKS
from bionemo.perteval.checks.profiles import OBSERVED
from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics.calibration import better_by
from bionemo.perteval.metrics.registry import METRICS, Metric, headline
from bionemo.perteval.populations.baselines import CONTROL_CELLS
from bionemo.perteval.populations.ceiling import SPLIT_HALVES
from bionemo.perteval.report.text import (
    ARROWS,
    cannot_tell,
    check_value,
    de_counts,
    difference,
    number,
    p_value,
    sign,
    signed,
)


@dataclass(frozen=True)
class Cell:
    """A `Cell` is a text, the small lines below it, and what it looks like (best, grey, count, raised)."""

    text: str
    notes: Sequence[str] = ()
    look: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """A `Row` is its name, its cells, and the kind of arm that it is about."""

    name: str
    cells: Sequence[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Sheet:
    """A `Sheet` is a table: what it is about, what its rows are, one head a column of cells, and rows.

    A head may be grey, where the metric tells nothing on this screen: `grey` says why.
    """

    caption: str
    of: str
    heads: Sequence[str]
    rows: Sequence[Row]
    look: str = ""
    grey: dict[str, str] = field(default_factory=dict)


def scores(
    evaluation: Evaluation, caption: str, metrics: Sequence[Metric], *, intervals: bool = True, places: int = 1
) -> Sheet:
    """Return one row an arm: its scores, with intervals where asked for, and after DEOver its DE counts with places."""
    winners = {metric.name: evaluation.best(metric.name) for metric in metrics}
    heads, rows = _heads(metrics), []
    for arm, described in evaluation.arms.items():
        cells = []
        for metric in metrics:
            low, high = (float(end) for end in evaluation.intervals.loc[(arm, metric.name)])
            value = float(evaluation.table.loc[arm, metric.name])  # type: ignore[arg-type]
            notes = [f"{number(low, metric)} to {number(high, metric)}"] if intervals and low == low else []
            cells.append(Cell(number(value, metric), notes, "best" if arm in winners[metric.name] else ""))
            if metric.name == "DEOver":
                cells.append(Cell(de_counts(evaluation, arm, places=places), look="count"))
        rows.append(Row(_arm(evaluation, arm), cells, described.kind))
    if "DEOver ↑" in heads:
        heads.insert(heads.index("DEOver ↑") + 1, "DE genes\npred/obs")
    look = "dense" if len(heads) > 8 else ""
    return Sheet(caption, "arm", heads, rows, look=look, grey=_grey(evaluation, metrics))


def comparisons(evaluation: Evaluation) -> Sheet:
    """Return one row a pair of arms: differences of the headline metrics, and whether the interval leaves out 0."""
    table = evaluation.comparisons
    rows = []
    for first, second in dict.fromkeys((str(a), str(b)) for a, b, _ in table.index):
        cells = []
        for metric in headline():
            of = table.loc[(first, second, metric.name)]
            better = better_by(of, metric)
            cells.append(_difference(metric, of, sign(better["low"], better["high"]), [f"p {p_value(of['p_value'])}"]))
        rows.append(Row(f"{first} − {second}", cells))
    return Sheet("Differences of arms", "pair", _names(headline()), rows, grey=_grey(evaluation, headline()))


def strata(evaluation: Evaluation) -> Sheet:
    """Return one row a stratum and prediction: how much better it is than the best baseline of the stratum."""
    rows = []
    for _, found in evaluation.strata.groupby(["by", "stratum", "arm"], sort=False):
        by_metric, first = found.set_index("metric"), found.iloc[0]
        cells = []
        for metric in headline():
            row = by_metric.loc[metric.name]
            hint = f"best baseline: {row['baseline']}"
            cells.append(_difference(metric, row, sign(float(row["low"]), float(row["high"])), hint=hint))
        several = f"{first['arm']}, " if len(evaluation.predictions) > 1 else ""
        effect = " effect" if first["by"] == "strength" else ""
        rows.append(Row(f"{several}{first['stratum']}{effect} ({first['conditions']})", cells))
    caption = "How much better than the best baseline, by stratum"
    return Sheet(caption, "conditions", _names(headline()), rows, grey=_grey(evaluation, headline()))


def calibration(evaluation: Evaluation) -> Sheet:
    """Return one row a metric: its two controls, how far they lie apart, and in how many conditions."""
    rows = []
    for name, row in evaluation.calibration.to_dict("index").items():
        texts = [
            str(row["negative"] or "–"),
            str(row["positive"] or "–"),
            difference(float(row["difference"]), METRICS[str(name)]),
            signed(float(row["separation"]), 1),
            "–" if row["wins"] != row["wins"] else f"{row['wins']:.0%}",
        ]
        cells = [Cell(text, look="words" if place < 2 else "") for place, text in enumerate(texts)]
        rows.append(Row(str(name), cells, "" if row["tells"] else "grey"))
    heads = ["knows nothing", "other measurement", "better by", "in half intervals", "conditions"]
    return Sheet("Calibration of the metrics", "metric", heads, rows)


def checks(evaluation: Evaluation) -> Sheet:
    """Return every check with its value for each prediction."""
    answers = {(flag.arm, flag.check.name): flag for flag in evaluation.flags}
    rows = []
    for check in CHECKS:
        flags = [answers[arm, check.name] for arm in evaluation.predictions]
        values = [
            Cell(("▲ " if flag.raised else "") + check_value(check, flag.value), look="raised" if flag.raised else "")
            for flag in flags
        ]
        rows.append(Row(check.name, [*values, Cell(_bounds(check)), Cell(check.kind)]))
    return Sheet("Checks", "check", [*evaluation.predictions, "unsuspicious", "kind"], rows)


def normalised(evaluation: Evaluation) -> Sheet:
    """Return normalised headline scores; the two arms that are 0 and 1 by definition are left out."""
    table = evaluation.normalised()
    rows = [
        Row(_arm(evaluation, arm), [Cell(signed(float(table.loc[arm, m.name]), 2)) for m in headline()], of.kind)  # type: ignore[arg-type]
        for arm, of in evaluation.arms.items()
        if arm not in {CONTROL_CELLS, SPLIT_HALVES}
    ]
    return Sheet("Normalised scores", "arm", _names(headline()), rows, grey=_grey(evaluation, headline()))


def published(protocol: dict[str, Any]) -> Sheet | None:
    """Return one row a model with the scores that a paper printed; None where there are none."""
    rows = [
        Row(
            f"{row['model']}, {row['source']}",
            [
                Cell(
                    (f"{row['scores'][metric.name]:g}" if metric.name in row["scores"] else "–")
                    + (" †" if metric.name in row["not_comparable"] else "")
                )
                for metric in headline()
            ],
        )
        for row in protocol["published"]
    ]
    return Sheet("Published scores", "model", _heads(headline()), rows) if rows else None


def engines(evaluation: Evaluation) -> Sheet | None:
    """Return the headline scores of both releases of cell-eval side by side; None where there is only one."""
    table = evaluation.engines
    if table is None:
        return None
    rows = []
    for arm in map(str, dict.fromkeys(table.index.get_level_values("arm"))):
        of = table.loc[arm]
        texts = [
            " / ".join(number(float(value), m) for value in of.loc[m.name]) if m.name in of.index else "–"
            for m in headline()
        ]
        rows.append(Row(_arm(evaluation, arm), list(map(Cell, texts)), evaluation.arms[arm].kind))
    return Sheet(f"cell-eval {' / '.join(map(str, table.columns))}", "arm", _heads(headline()), rows)


def challenge(evaluation: Evaluation) -> Sheet | None:
    """Return the scaled members of the Virtual Cell Challenge 2026; None where not asked for."""
    scaled = evaluation.challenge_table
    if scaled is None:
        return None
    rows = [
        Row(str(arm), [Cell(signed(float(value), 2)) for value in row], evaluation.arms[str(arm)].kind)
        for arm, row in scaled.iterrows()
    ]
    return Sheet("Members of the Virtual Cell Challenge 2026", "arm", [f"{name} ↑" for name in scaled.columns], rows)


def contexts(evaluation: Evaluation) -> Sheet | None:
    """Return the scores of each prediction and of the baseline to beat, context by context; None for one context."""
    rows = []
    for context, labels in evaluation.settings["scored"].items():
        for arm in (*evaluation.predictions, evaluation.target):
            values = evaluation.per_context.loc[(arm, context)]
            cells = [Cell(number(float(values[metric.name]), metric)) for metric in headline()]
            rows.append(Row(f"{context} ({len(labels)}): {arm}", cells, evaluation.arms[arm].kind))
    several = len(evaluation.settings["scored"]) > 1
    return Sheet("Scores by context", "context", _heads(headline()), rows) if several else None


def populations(evaluation: Evaluation) -> Sheet:
    """Return zeros and variance of the observed cells and of all arms."""
    profiles = evaluation.profiles
    rows = []
    for arm in (OBSERVED, *evaluation.arms):
        texts = f"{100 * profiles.zeros[arm].mean():.1f} %", f"{profiles.variances[arm].mean():.3f}"
        name, kind = ("observed cells", OBSERVED) if arm == OBSERVED else (arm, evaluation.arms[arm].kind)
        rows.append(Row(name, list(map(Cell, texts)), kind))
    return Sheet("Zeros and variance of all arms", "arm", ["zeros", "variance in a population"], rows, look="narrow")


def missing(evaluation: Evaluation) -> Sheet | None:
    """Return how many conditions have no value; None where none is missing."""
    names = [name for name, total in evaluation.missing.sum().items() if total]
    rows = [
        Row(arm, [Cell(str(int(evaluation.missing.loc[arm, name]))) for name in names])  # type: ignore[arg-type]
        for arm in evaluation.arms
    ]
    return Sheet("Missing values", "arm", [f"no {name}" for name in names], rows, look="narrow") if names else None


def _arm(evaluation: Evaluation, arm: str) -> str:
    kind = evaluation.arms[arm].kind
    return f"{arm} ({kind})" if kind in ("ceiling", "oracle") else arm


def _names(metrics: Iterable[Metric]) -> list[str]:
    return [metric.name for metric in metrics]


def _heads(metrics: Iterable[Metric]) -> list[str]:
    return [f"{metric.name} {ARROWS[metric.best or 'high']}" for metric in metrics]


def _grey(evaluation: Evaluation, metrics: Iterable[Metric]) -> dict[str, str]:
    """Return head -> why its metric tells nothing, with and without the arrow."""
    said = {metric: cannot_tell(evaluation, metric) for metric in metrics}
    return {head: why for metric, why in said.items() if why for head in (metric.name, *_heads([metric]))}


def _difference(metric: Metric, row: pd.Series, verdict: str, notes: Sequence[str] = (), hint: str = "") -> Cell:
    value, low, high = (difference(float(row[name]), metric) for name in ("difference", "low", "high"))
    between = [] if low == "–" else [f"{low} to {high}"]
    return Cell(f"{verdict} {value}".strip(), [*between, *notes], hint=hint)


def _bounds(check: Any) -> str:
    if check.low is None:
        return f"up to {check_value(check, check.high)}"
    if check.high is None:
        return f"from {check_value(check, check.low)}"
    return f"{check_value(check, check.low)} to {check_value(check, check.high)}"
