"""Show the scores as tables in the terminal."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics.registry import FEW_DE_GENES, METRICS, STRONG_EFFECT, headline
from bionemo.perteval.metrics.strata import METRIC, RESISTANT, SATURATED
from bionemo.perteval.populations.ceiling import SPLIT_HALVES
from bionemo.perteval.report.text import (
    ARROWS,
    cannot_tell,
    counted,
    de_counts,
    difference,
    number,
    p_value,
    sign,
    signed,
    stratum_name,
)
from bionemo.perteval.report.warnings import warnings
from bionemo.screens.printable import printable

_WIDE = 110
"""Columns of a terminal from which on a prediction's table has all of its columns."""


def render(evaluation: Evaluation) -> RenderableType:
    """Return the tables for a terminal: all arms by the seven metrics, then each prediction metric by metric."""
    return _Tables(evaluation)


class _Tables:
    """The tables have fewer columns where there is little room."""

    def __init__(self, evaluation: Evaluation):
        self._evaluation = evaluation

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        evaluation = self._evaluation
        names = evaluation.predictions
        for of in evaluation.kinds:
            yield _all_arms(of)
        for notice in (*evaluation.notices, *evaluation.failed_seeds):
            yield _text(notice, "bold")
        for warning in warnings(evaluation):
            yield _text(f"Warning: {warning}", "bold")
        yield Text()
        for arm in names:
            yield _prediction(evaluation, arm, wide=options.max_width >= _WIDE)
            yield _strata(evaluation, arm)
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                yield _comparison(evaluation, first, second)
        if evaluation.engines is not None:
            yield _engines(evaluation)
        if evaluation.challenge_table is not None:
            yield _challenge(evaluation)


def _text(text: str, style: str = "") -> Text:
    """Return text that rich shows as it is, whatever brackets a label has."""
    return Text(printable(text), style=style)


def _table(title: str, *columns: str) -> Table:
    # Narrow columns and short numbers, because output that is not a terminal is 80 wide.
    table = Table(title=_text(title), title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.show_edge = False
    table.add_column("", min_width=13, overflow="fold")
    for column in columns:
        head = Text("\n").join(_text(line) for line in column.split("\n"))
        table.add_column(head, justify="right", overflow="fold")
    return table


def _all_arms(evaluation: Evaluation) -> RenderableType:
    heads = []
    for metric in headline():
        heads.append(f"{metric.name}\n{ARROWS[metric.best or 'high']} ")
        if metric.name == "DEOver":
            heads.append("DE genes\npred/obs")
    size = counted(evaluation.conditions, len(evaluation.settings["scored"]))
    table = _table(f"{size}, {evaluation.controls} control cells", *heads)
    for column in table.columns[1:]:
        column.no_wrap = True
    winners = {metric.name: evaluation.best(metric.name) for metric in headline()}
    grey = {metric.name for metric in headline() if cannot_tell(evaluation, metric)}
    before = ""
    for arm in evaluation.table.index:
        kind = evaluation.arms[arm].kind
        if before and kind != before:
            table.add_section()
        before = kind
        label = {"ceiling": " (ceiling)", "oracle": " (oracle)"}.get(kind, "")
        cells = [_text(arm + label, "bold" if kind == "prediction" else "")]
        for metric in headline():
            best = arm in winners[metric.name]
            score = number(float(evaluation.table.loc[arm, metric.name]), metric)  # type: ignore[arg-type]
            style = "dim" if metric.name in grey else "bold" if best else ""
            cells.append(_text(_short(score) + ("*" if best else " "), style))
            if metric.name == "DEOver":
                cells.append(_text(de_counts(evaluation, arm, places=0, separator="/")))
        table.add_row(*cells)
    legend = "* best without oracles and ceiling; means over perturbations, then contexts"
    said = [text for metric in headline() if (text := cannot_tell(evaluation, metric))]
    return Group(table, *(_text(text, "dim") for text in (legend, *said)))


def _strata(evaluation: Evaluation, arm: str) -> RenderableType:
    """Return how much better a prediction is than the best baseline of each stratum."""
    table = _table(f"{arm} less the best baseline, above 0 where it is better", *(m.name for m in headline()))
    mine = evaluation.strata[evaluation.strata["arm"] == arm]
    for _, rows in mine.groupby(["by", "stratum"], sort=False):
        by, stratum, conditions = rows.iloc[0][["by", "stratum", "conditions"]]
        found = rows.set_index("metric")
        cells = (
            _short(difference(float(found.loc[metric.name, "difference"]), metric))  # type: ignore[arg-type]
            + sign(float(found.loc[metric.name, "low"]), float(found.loc[metric.name, "high"]), empty=" ")  # type: ignore[arg-type]
            for metric in headline()
        )
        table.add_row(f"{stratum_name(by, stratum)} ({conditions})", *cells)
    legend = (
        f"▲ ahead, ▽ behind, and the interval leaves out 0; saturated: {evaluation.best_baseline(METRIC)} has at least "
        f"{SATURATED:.0%} of the way from control cells to a replicate in {METRIC}, resistant: less than "
        f"{RESISTANT:.0%}; weak: fewer than {FEW_DE_GENES} observed DE genes, strong: at least {STRONG_EFFECT}"
    )
    return Group(table, _text(legend, "dim"), Text())


def _prediction(evaluation: Evaluation, arm: str, *, wide: bool) -> RenderableType:
    """Return one prediction metric by metric, between control cells and ceiling and against the baseline to beat."""
    compared = evaluation.compared(arm, evaluation.target)
    strong = evaluation.strong
    spread = evaluation.seed_spread.loc[arm]
    normalised = evaluation.normalised().loc[arm]
    several = bool(spread.notna().any())
    rows = []
    for name in evaluation.metrics:
        metric = METRICS[name]
        if metric.best is None:
            continue
        row = compared.loc[name]

        def show(value: Any, metric=metric) -> str:
            return _short(number(float(value), metric))

        low, high = evaluation.intervals.loc[(arm, name)]
        cells = {
            "value": show(evaluation.table.loc[arm, name]),
            "95 % interval": "–" if low != low else f"[{show(low)}, {show(high)}]",
            "± seeds": show(spread[name]) if several and wide else None,
            "normal-\nised": _short(signed(float(normalised[name]), 2)) if wide else None,
            f"strong\n({strong.conditions if strong else 0})": show(strong.table.loc[arm, name]) if strong else "–",
            "ceiling": show(evaluation.table.loc[SPLIT_HALVES, name]) if wide else None,
            "corrected": (show(evaluation.corrected_ceiling[name]) if metric.corrected else "") if wide else None,
            **_compared(row, metric),
        }
        rows.append((metric, {head: cell for head, cell in cells.items() if cell is not None}))
    table = _table(arm, *rows[0][1])
    for metric, cells in rows:
        table.add_row(f"{metric.name} {ARROWS[metric.best or 'high']}", *cells.values())
    legend = (
        f"strong: at least {STRONG_EFFECT} observed DE genes; baseline: {evaluation.target}; intervals: bootstrap over "
        "contexts and perturbations; p: Wilcoxon signed rank"
    )
    if wide:
        legend += "; normalised: 0 control cells, 1 split halves; corrected: Spearman-Brown"
    return Group(table, _text(legend, "dim"), Text())


def _comparison(evaluation: Evaluation, first: str, second: str) -> RenderableType:
    compared = evaluation.compared(first, second)
    table = _table(f"{first} less {second}", first, second, "difference", "95 % interval", "p", "conditions")
    for name in evaluation.metrics:
        metric = METRICS[name]
        if metric.best is None:
            continue
        row = compared.loc[name]
        scores = (evaluation.table.loc[arm, name] for arm in (first, second))
        table.add_row(
            f"{name} {ARROWS[metric.best]}",
            *(_short(number(float(score), metric)) for score in scores),  # type: ignore[arg-type]
            *_compared(row, metric).values(),
            str(int(row["conditions"])),
        )
    return Group(table, Text())


def _engines(evaluation: Evaluation) -> RenderableType:
    engines = evaluation.engines
    assert engines is not None
    ours, other = engines.columns
    table = _table(f"cell-eval {ours} / {other}", *(metric.name for metric in headline()))
    for arm in engines.index.get_level_values("arm").unique():
        pairs = engines.loc[arm]
        scores = (
            " / ".join(_short(number(float(value), metric)) for value in pairs.loc[metric.name])
            if metric.name in pairs.index
            else "–"
            for metric in headline()
        )
        table.add_row(_text(str(arm)), *scores)
    return table


def _challenge(evaluation: Evaluation) -> RenderableType:
    scaled = evaluation.challenge_table
    assert scaled is not None
    table = _table("Virtual Cell Challenge 2026", *scaled.columns)
    for arm, row in scaled.iterrows():
        table.add_row(_text(str(arm)), *(_short(signed(float(value), 2)) for value in row))
    return table


def _compared(row: Any, metric: Any) -> dict[str, str]:
    """Return a difference, its interval and its p value by the head of their columns."""
    low, high = float(row["low"]), float(row["high"])
    between = f"[{_short(difference(low, metric))}, {_short(difference(high, metric))}]"
    return {
        "less the\nbaseline": _short(difference(float(row["difference"]), metric)),
        "95 % interval of\nthe difference": "–" if low != low else between,
        "p": _short(p_value(row["p_value"])),
    }


def _short(text: str) -> str:
    """Return a fraction without its leading zero."""
    return text.replace("0.", ".", 1) if text.lstrip("+−<").startswith("0.") else text
