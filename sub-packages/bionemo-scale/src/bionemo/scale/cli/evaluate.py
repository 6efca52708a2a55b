"""``bionemo-scale evaluate``: perteval's report from the command line."""

from pathlib import Path

import typer
from rich.console import Console

from bionemo import perteval
from bionemo.perteval.cli import named
from bionemo.perteval.leakage import read_pairs


def evaluate(predicted: list[str], observed: Path, out: Path, **settings) -> None:
    """Score, print the table, write the report.

    Parameters
    ----------
    predicted
        One path, or ``name=path`` for each prediction.
    observed, out
        As in :func:`bionemo.perteval.evaluate`.
    settings
        Its further arguments.
    """
    for option in ("held_out", "training_conditions"):
        if settings.get(option) is not None:
            settings[option] = read_pairs(settings[option], "--" + option.replace("_", "-"))
    evaluation = perteval.evaluate(named(predicted), observed, out=out, **settings)
    Console().print(perteval.render(evaluation))
    typer.echo(f"report: {out / 'report.html'}")
