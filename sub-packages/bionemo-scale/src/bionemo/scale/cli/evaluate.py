"""``bionemo-scale evaluate``: perteval's report, with the split's held-out conditions kept from the baselines."""

from pathlib import Path

import numpy as np
import typer
from rich.console import Console

from bionemo import perteval
from bionemo.cellsets import Split
from bionemo.perteval.cli import named
from bionemo.scale.inference.annotations import labelled, read_h5ad


def evaluate(predicted: list[str], observed: Path, out: Path, *, split: Path | None, **settings) -> None:
    """Score, print the table, write the report.

    Parameters
    ----------
    predicted
        One path, or ``name=path`` for each prediction.
    observed, out
        As in :func:`bionemo.perteval.evaluate`.
    split
        TOML file whose validation and test conditions the baselines must not use.
    settings
        Further arguments of :func:`bionemo.perteval.evaluate`.
    """
    predictions = named(predicted)
    held_out = None
    if split is not None:
        first = predictions if isinstance(predictions, Path) else next(iter(predictions.values()))[0]
        held_out = _held_out(Split.from_toml(split), first, observed, settings)
    evaluation = perteval.evaluate(predictions, observed, out=out, held_out=held_out, **settings)
    Console().print(perteval.render(evaluation))
    typer.echo(f"report: {out / 'report.html'}")


def _held_out(split: Split, predicted: Path, observed: Path, settings: dict) -> list[tuple[str, str]]:
    """Every (context, perturbation) of the observed file that the split holds out; its names must be there."""
    stated = read_h5ad(predicted, labels_only=True).uns.get("prediction", {})
    context, perturbation, control = (
        settings[name] or stated.get(name) for name in ("context_key", "perturbation_key", "control")
    )
    if None in (context, perturbation, control):
        return []  # perteval says which is missing
    obs = labelled(read_h5ad(observed, labels_only=True), (context, perturbation), observed)
    conditions = obs[[context, perturbation]].astype(str).drop_duplicates()
    runs = np.zeros(len(conditions), dtype=[("context", int), ("perturbation", int)])
    contexts, runs["context"] = np.unique(np.asarray(conditions[context], dtype=str), return_inverse=True)
    perturbations, runs["perturbation"] = np.unique(
        np.asarray(conditions[perturbation], dtype=str), return_inverse=True
    )
    parts = split.assign_runs(runs, contexts, perturbations, control)
    held_out = (parts != "train") & (np.asarray(conditions[perturbation]) != control)
    return list(conditions.loc[held_out].itertuples(index=False, name=None))
