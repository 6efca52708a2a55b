"""The scores as tables in the terminal."""

from typing import TYPE_CHECKING, Any

from bionemo.perteval.metrics.registry import HEADLINE, METRICS, STRONG_EFFECT, Metric
from bionemo.perteval.populations.ceiling import SPLIT_HALVES

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

    from bionemo.perteval.evaluation import Evaluation

_WIDE = 110
"""Columns of a terminal from which on a prediction's table has all of its columns."""

ARROWS = {"high": "↑", "low": "↓"}
"""Sign for the better direction."""


def number(value: float, metric: Metric) -> str:
    """Return a score as text: three digits for errors, one for counts, three places else; a dash for none."""
    if value != value:
        return "–"
    if metric.best is None:
        return f"{value:.1f}"
    if metric.best == "low":
        return f"{value:.3g}" if value >= 1e-6 or value == 0 else "<1e-6"
    return signed(value, 3)


def counted(conditions: int, contexts: int) -> str:
    """Return ``"12 conditions in 1 context"``."""
    return f"{conditions} condition{'s' * (conditions != 1)} in {contexts} context{'s' * (contexts != 1)}"


def signed(value: float, places: int) -> str:
    """Return a number as text with a true minus sign; a dash for none."""
    return "–" if value != value else f"{value:.{places}f}".replace("-", "−")


def de_counts(evaluation: "Evaluation", arm: str, *, places: int = 1, separator: str = " / ") -> str:
    """Return the mean numbers of predicted and observed DE genes of an arm, as ``"predicted / observed"``."""
    row = evaluation.table.loc[arm]
    return f"{row['n_de_predicted']:.{places}f}{separator}{row['n_de_observed']:.{places}f}"


def interval(low: float, high: float, metric: Metric) -> str:
    """Return ``"[low, high]"`` in the metric's digits; a dash for none."""
    return "–" if low != low else f"[{_short(number(low, metric))}, {_short(number(high, metric))}]"


def p_value(value: float) -> str:
    """Return a p value as text."""
    return "–" if value != value else "<.001" if value < 0.001 else _short(f"{value:.3f}")


def render(evaluation: "Evaluation") -> "RenderableType":
    """Return the tables for a terminal: all arms by the seven metrics, then each prediction metric by metric.

    Parameters
    ----------
    evaluation
        Result of `evaluate`.
    """
    return _Tables(evaluation)


class _Tables:
    """The tables, with fewer columns where there is little room."""

    def __init__(self, evaluation: "Evaluation"):
        self._evaluation = evaluation

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        evaluation = self._evaluation
        names = evaluation.predictions
        yield _all_arms(evaluation)
        for arm in names:
            yield _prediction(evaluation, arm, wide=options.max_width >= _WIDE)
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                yield _comparison(evaluation, first, second)
        if evaluation.engines is not None:
            yield _engines(evaluation)


def _table(title: str, *columns: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # Narrow columns and short numbers, because output that is not a terminal is 80 wide.
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.show_edge = False
    table.add_column("", min_width=13, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _all_arms(evaluation: "Evaluation") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    title = counted(evaluation.conditions, len(evaluation.settings["scored"]))
    heads = []
    for metric in HEADLINE:
        heads.append(f"{metric.name}\n{ARROWS[metric.best or 'high']} ")
        if metric.name == "DEOver":
            heads.append("DE genes\npred/obs")
    table = _table(title, *heads)
    for column in table.columns[1:]:
        column.no_wrap = True
    before = ""
    for arm in evaluation.table.index:
        kind = evaluation.arms[arm].kind
        if before and kind != before:
            table.add_section()
        before = kind
        label = {"ceiling": " (ceiling)", "oracle": " (oracle)"}.get(kind, "")
        cells = [Text(arm + label, style="bold" if kind == "prediction" else "")]
        for metric in HEADLINE:
            best = arm in evaluation.best(metric.name)
            text = number(evaluation.table.loc[arm, metric.name], metric)  # type: ignore[arg-type]
            cells.append(Text(_short(text) + ("*" if best else " "), style="bold" if best else ""))
            if metric.name == "DEOver":
                cells.append(Text(de_counts(evaluation, arm, places=0, separator="/")))
        table.add_row(*cells)
    legend = "* best without oracles and ceiling; means over perturbations, then contexts"
    return Group(table, Text(legend, style="dim"), Text())


def _prediction(evaluation: "Evaluation", arm: str, *, wide: bool) -> "RenderableType":
    """Return one prediction metric by metric, between control cells and ceiling and against the baseline to beat."""
    from rich.console import Group
    from rich.text import Text

    second = evaluation.comparisons.loc[[arm]].index.get_level_values("second")[-1]
    compared = evaluation.comparisons.loc[(arm, second)]
    strong = evaluation.strong
    spread = evaluation.seed_spread.loc[arm]
    normalised = evaluation.normalised().loc[arm]
    rows = []
    for metric in METRICS:
        if metric.best is None:
            continue
        name = metric.name
        row = compared.loc[name]

        def show(value: Any, metric: Metric = metric) -> str:
            return _short(number(float(value), metric))

        cells = {
            "value": show(evaluation.table.loc[arm, name]),
            "95 % interval": interval(*map(float, evaluation.intervals.loc[(arm, name)]), metric=metric),
            "± seeds": show(spread[name]),
            "normal-\nised": _short(signed(float(normalised[name]), 2)),
            f"strong\n({strong.conditions if strong else 0})": (
                "–" if strong is None else show(strong.table.loc[arm, name])
            ),
            "ceiling": show(evaluation.table.loc[SPLIT_HALVES, name]),
            "corrected": show(evaluation.corrected_ceiling[name]) if metric.corrected else "",
            "less the\nbaseline": _difference(row["difference"], metric),
            "95 % interval of\nthe difference": _difference_interval(row, metric),
            "p": p_value(row["p_value"]),
        }
        left_out = set() if spread.notna().any() else {"± seeds"}
        left_out |= set() if wide else {"± seeds", "normal-\nised", "ceiling", "corrected"}
        rows.append((metric, {head: cell for head, cell in cells.items() if head not in left_out}))
    table = _table(arm, *rows[0][1])
    for metric, cells in rows:
        table.add_row(f"{metric.name} {ARROWS[metric.best or 'high']}", *cells.values())
    legend = (
        f"strong: at least {STRONG_EFFECT} observed DE genes; baseline: {second}; intervals: bootstrap over contexts "
        "and perturbations; p: Wilcoxon signed rank"
    )
    if wide:
        legend += "; normalised: 0 control cells, 1 split halves; corrected: Spearman-Brown"
    return Group(table, Text(legend, style="dim"), Text())


def _comparison(evaluation: "Evaluation", first: str, second: str) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    compared = evaluation.comparisons.loc[(first, second)]
    table = _table(f"{first} less {second}", first, second, "difference", "95 % interval", "p", "conditions")
    for metric in METRICS:
        if metric.best is None:
            continue
        row = compared.loc[metric.name]
        table.add_row(
            f"{metric.name} {ARROWS[metric.best]}",
            *(_short(number(float(evaluation.table.loc[arm, metric.name]), metric)) for arm in (first, second)),
            _difference(row["difference"], metric),
            _difference_interval(row, metric),
            p_value(row["p_value"]),
            str(int(row["conditions"])),
        )
    return Group(table, Text())


def _engines(evaluation: "Evaluation") -> "RenderableType":
    engines = evaluation.engines
    assert engines is not None
    ours, other = engines.columns
    table = _table(f"cell-eval {ours} / {other}", *(metric.name for metric in HEADLINE))
    for arm in engines.index.get_level_values("arm").unique():
        pairs = engines.loc[arm]
        table.add_row(
            str(arm),
            *(
                " / ".join(_short(number(float(value), metric)) for value in pairs.loc[metric.name])
                if metric.name in pairs.index
                else "–"
                for metric in HEADLINE
            ),
        )
    return table


def _difference(value: float, metric: Metric) -> str:
    """Return a difference with its sign."""
    if value != value:
        return "–"
    text = f"{value:+.3g}" if metric.best == "low" else f"{value:+.3f}"
    return text.replace("+0.", "+.").replace("-0.", "−.").replace("-", "−")


def _difference_interval(row: "pd.Series", metric: Metric) -> str:
    low, high = float(row["low"]), float(row["high"])
    return "–" if low != low else f"[{_difference(low, metric)}, {_difference(high, metric)}]"


def _short(text: str) -> str:
    """Return a fraction without its leading zero."""
    return text.replace("0.", ".", 1) if text.startswith(("0.", "−0.")) else text
