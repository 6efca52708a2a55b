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
from bionemo.perteval.report import sheets
from bionemo.perteval.report.sheets import Sheet
from bionemo.perteval.report.text import ARROWS, cannot_tell, counted, difference, number, p_value, signed
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
        for said in dict.fromkeys(filter(None, (cannot_tell(evaluation, metric) for metric in headline()))):
            yield _text(said, "dim")
        for notice in (*evaluation.notices, *evaluation.failed_seeds):
            yield _text(notice, "bold")
        for warning in warnings(evaluation):
            yield _text(f"Warning: {warning}", "bold")
        yield Text()
        for arm in names:
            yield _prediction(evaluation, arm, wide=options.max_width >= _WIDE)
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                yield _comparison(evaluation, first, second)
        yield _strata(evaluation)
        yield from map(_sheet, filter(None, (sheets.engines(evaluation), sheets.challenge(evaluation))))


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


def _sheet(sheet: Sheet, title: str = "") -> Table:
    """Return a table of the page without its small lines: best scores are bold, metrics that tell nothing dim."""
    starred = any("best" in cell.look for row in sheet.rows for cell in row.cells)
    table = _table(
        title or sheet.caption,
        *(head.replace(" ↑", "\n↑").replace(" ↓", "\n↓") + " " * starred for head in sheet.heads),
    )
    for column in table.columns[1:]:
        column.no_wrap = True
    before = ""
    for row in sheet.rows:
        if before and row.kind != before:
            table.add_section()
        before = row.kind
        cells = [_text(row.name, "bold" if row.kind == "prediction" else "")]
        for head, cell in zip(sheet.heads, row.cells, strict=True):
            best = "best" in cell.look
            style = "dim" if head in sheet.grey else "bold" if best else ""
            cells.append(_text(_short(cell.text) + ("*" if best else " " * starred), style))
        table.add_row(*cells)
    return table


def _all_arms(evaluation: Evaluation) -> RenderableType:
    sheet = sheets.scores(evaluation, "", headline(), intervals=False, places=0)
    size = counted(evaluation.conditions, len(evaluation.settings["scored"]))
    legend = "* best without oracles and ceiling, dim tells nothing; means over perturbations, then contexts"
    return Group(_sheet(sheet, f"{size}, {evaluation.controls} control cells"), _text(legend, "dim"))


def _strata(evaluation: Evaluation) -> RenderableType:
    """Return how much better the predictions are than the best baseline of each stratum."""
    legend = (
        "above 0 is better, ▲ ahead and ▽ behind by more than the interval; saturated: "
        f"{evaluation.best_baseline(METRIC)} has at least {SATURATED:.0%} of the way from control cells to a replicate "
        f"in {METRIC}, resistant: less than {RESISTANT:.0%}; weak: fewer than {FEW_DE_GENES} observed DE genes, "
        f"strong: at least {STRONG_EFFECT}"
    )
    return Group(_sheet(sheets.strata(evaluation)), _text(legend, "dim"), Text())


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
    return text.replace("0.", ".", 1) if text.lstrip("▲▽ +−<").startswith("0.") else text
