"""``bionemo-scale evaluate``: perteval's report from the command line."""

from pathlib import Path

import typer
from rich.console import Console

from bionemo import perteval
from bionemo.perteval.cli import named, of_training
from bionemo.perteval.rules.leakage import read_pairs


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
    if settings.get("held_out") is not None:
        settings["held_out"] = read_pairs(settings["held_out"], "--held-out")
    settings |= of_training(settings.get("training_conditions"), settings.get("hvg_from"))
    evaluation = perteval.evaluate(named(predicted), observed, out=out, **settings)
    Console().print(perteval.render(evaluation))
    typer.echo(f"report: {out / 'report.html'}")
