"""The `perteval` command."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False
)

_EXAMPLE = "Example: `perteval evaluate --predicted predicted.h5ad --observed screen.h5ad --out report`"


@app.callback()
def _root() -> None:
    """Score predicted cells against observed cells, between their baselines and their ceiling."""


@app.command(epilog=_EXAMPLE)
def evaluate(
    predicted: Annotated[
        list[str],
        typer.Option(
            help="Predicted cells (h5ad), X in log1p. Several predictions: repeat as `name=file.h5ad`; several "
            "training seeds of one: `name=a.h5ad,b.h5ad`, or repeat the name."
        ),
    ],
    observed: Annotated[Path, typer.Option(help="Observed cells (h5ad), counts or log1p; best the whole screen.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, metrics.json and the CSV files.")],
    perturbation_key: Annotated[
        str | None,
        typer.Option(help="Column of obs with the perturbation; this and the next four: else the prediction's uns."),
    ] = None,
    control: Annotated[str | None, typer.Option(help="Label of the control cells.")] = None,
    context_key: Annotated[
        str | None, typer.Option(help="Column of obs with the context: cell type, line, donor.")
    ] = None,
    target_sum: Annotated[
        float | None, typer.Option(help="Counts per cell that observed counts are scaled to.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the observed file instead of X.")] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="CSV with columns context,perturbation: further conditions the baselines must not use."),
    ] = None,
    arms: Annotated[str, typer.Option(help="`all` baselines and oracles, or the `main` ones.")] = "all",
    engine: Annotated[
        str, typer.Option(help="`0.6`; `0.8` also scores with the current cell-eval, in an environment made for it.")
    ] = "0.6",
    cache: Annotated[
        Path | None, typer.Option(help="Folder where tests of observed cells are kept for the next evaluation.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads; all cores, sixteen at most.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Score a prediction and write the report."""
    from rich.console import Console

    from bionemo.perteval import InputError, render
    from bionemo.perteval import evaluate as run

    try:
        evaluation = run(
            named(predicted),
            observed,
            out=out,
            perturbation_key=perturbation_key,
            control=control,
            context_key=context_key,
            target_sum=target_sum,
            layer=layer,
            held_out=None if held_out is None else _pairs(held_out),
            seed=seed,
            arms=arms,  # type: ignore[arg-type]
            engine=engine,  # type: ignore[arg-type]
            cache=cache,
            threads=threads,
            progress=progress,
        )
    except InputError as error:
        typer.echo(f"perteval: {error}", err=True)
        raise typer.Exit(2) from None
    console = Console()
    console.print(render(evaluation))
    typer.echo(f"Report: {out / 'report.html'}")


def named(predicted: list[str]) -> Path | dict[str, list[Path]]:
    """Return what ``--predicted`` says: one path, or name -> files."""
    from bionemo.perteval import InputError

    if len(predicted) == 1 and ("=" not in predicted[0] or Path(predicted[0]).exists()):
        return Path(predicted[0])
    files: dict[str, list[Path]] = {}
    for given in predicted:
        name, equals, paths = given.partition("=")
        if not equals or not name or not paths:
            raise InputError(
                f"Several predictions need names, but {given!r} has none; write --predicted name=file.h5ad."
            )
        files.setdefault(name, []).extend(Path(path) for path in paths.split(","))
    return files


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Read (context, perturbation) pairs from a CSV with these two columns."""
    import pandas as pd

    from bionemo.perteval import InputError

    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"The held-out file {path} cannot be read as CSV ({error}); check --held-out.") from error
    for column in ("context", "perturbation"):
        if column not in frame:
            raise InputError(
                f"The held-out file {path} has no column {column!r}; its header has to be context,perturbation."
            )
    return list(zip(frame["context"], frame["perturbation"], strict=True))


def main() -> None:
    """Entry point of the `perteval` command."""
    app()
