"""Write numbers and labels as text, for the page, the pictures and the terminal alike."""

from collections.abc import Sequence

from bionemo.perteval.checks.flags import Check
from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics.registry import Metric

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


def difference(value: float, metric: Metric) -> str:
    """Return a difference of scores as text with its sign; a dash for none."""
    if value != value:
        return "–"
    return (f"{value:+.3g}" if metric.best == "low" else f"{value:+.3f}").replace("-", "−")


def signed(value: float, places: int) -> str:
    """Return a number as text with a true minus sign; a dash for none."""
    return "–" if value != value else f"{value:.{places}f}".replace("-", "−")


def sign(low: float, high: float, *, empty: str = "") -> str:
    """Return a sign for an interval of how much better something is: ▲ above 0, ▽ below it, else `empty`."""
    return "▲" if low > 0 else "▽" if high < 0 else empty


def check_value(check: Check, value: float) -> str:
    """Return the value of a check as text; a dash for none."""
    if value != value:
        return "–"
    return f"{100 * value:.0f} %".replace("-", "−") if check.percent else signed(value, 2)


def enumerated(names: Sequence[str]) -> str:
    """Return ``"a, b and c"``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def p_value(value: float) -> str:
    """Return a p value as text; a dash for none."""
    return "–" if value != value else "<0.001" if value < 0.001 else f"{value:.3f}"


def cannot_tell(evaluation: Evaluation, metric: Metric) -> str:
    """Say why a metric says nothing on this screen; empty where it tells a replicate from what knows nothing."""
    row = evaluation.calibration.loc[metric.name]
    if row["tells"]:
        return ""
    begin = f"{metric.name} cannot tell another measurement of the cells from a baseline that knows no perturbation"
    if row["low"] != row["low"]:
        return f"{begin}: one of them has no value, or there are too few conditions for an interval."
    low, high, found = (difference(float(row[name]), metric) for name in ("low", "high", "difference"))
    return (
        f"{begin}: {row['positive']} is better than {row['negative']} by {found} (95 % interval {low} to {high}), and "
        f"in {row['wins']:.0%} of the conditions."
    )


def counted(conditions: int, contexts: int) -> str:
    """Return ``"12 conditions in 1 context"``."""
    return f"{conditions} condition{'s' * (conditions != 1)} in {contexts} context{'s' * (contexts != 1)}"


def de_counts(evaluation: Evaluation, arm: str, *, places: int = 1, separator: str = " / ") -> str:
    """Return the mean numbers of predicted and observed DE genes of an arm, as ``"predicted / observed"``."""
    row = evaluation.table.loc[arm]
    return f"{row['n_de_predicted']:.{places}f}{separator}{row['n_de_observed']:.{places}f}"
