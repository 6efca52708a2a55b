"""The scores as a table in the terminal."""

from typing import TYPE_CHECKING

from bionemo.perteval.baselines import PREDICTION
from bionemo.perteval.ceiling import SPLIT_HALVES
from bionemo.perteval.metrics import HEADLINE, Metric

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bionemo.perteval.evaluation import Evaluation

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


def render(evaluation: "Evaluation") -> "RenderableType":
    """Return a rich table of all arms and the seven metrics, the best arm of each in bold, the ceiling apart.

    Parameters
    ----------
    evaluation
        Result of `evaluate`.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    contexts = evaluation.settings["scored"]
    conditions = sum(len(labels) for labels in contexts.values())
    # Narrow columns and short numbers, because output that is not a terminal is 80 wide.
    table = Table(title=counted(conditions, len(contexts)), title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.show_edge = False
    table.add_column("", min_width=13, overflow="fold")
    for metric in HEADLINE:
        table.add_column(f"{metric.name}\n{ARROWS[metric.best or 'high']} ", justify="right", no_wrap=True)
        if metric.name == "DEOver":
            table.add_column("DE genes\npred/obs", justify="right", no_wrap=True)
    for arm in evaluation.table.index:
        if arm == SPLIT_HALVES:
            table.add_section()
        cells = [Text(arm, style="bold" if arm == PREDICTION else "")]
        for metric in HEADLINE:
            best = arm in evaluation.best(metric.name)
            text = number(evaluation.table.loc[arm, metric.name], metric)  # type: ignore[arg-type]
            cells.append(Text(_short(text) + ("*" if best else " "), style="bold" if best else ""))
            if metric.name == "DEOver":
                cells.append(Text(de_counts(evaluation, arm, places=0, separator="/")))
        table.add_row(*cells)
    legend = Text("* best without the ceiling (split halves); means over perturbations, then contexts", style="dim")
    return Group(table, legend)


def _short(text: str) -> str:
    """Return a fraction without its leading zero."""
    return text.replace("0.", ".", 1) if text.startswith(("0.", "−0.")) else text
