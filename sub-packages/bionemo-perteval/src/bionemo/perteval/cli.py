"""The `perteval` command."""

from pathlib import Path
from typing import Annotated, Any

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
    protocol: Annotated[
        str | None,
        typer.Option(help="tahoe100m, parse10m-pbmc, replogle-nadig, or a TOML file: keys and held-out contexts."),
    ] = None,
    split: Annotated[
        Path | None, typer.Option(help="TOML file of held-out conditions, in the layout of the training.")
    ] = None,
    training_conditions: Annotated[
        list[str] | None,
        typer.Option(
            help="CSV with columns context,perturbation: what the model was trained on. Of one of several "
            "predictions: `name=pairs.csv`, repeated."
        ),
    ] = None,
    hvg_from: Annotated[
        list[str] | None,
        typer.Option(
            help="Cells that chose the genes, where the prediction does not say: train, all, given. Of one of several "
            "predictions: `name=train`, repeated."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse also statistics of held-out cells, and what cannot be checked.")
    ] = False,
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

    from bionemo.perteval import evaluate as run
    from bionemo.perteval import render
    from bionemo.perteval.rules.leakage import read_pairs
    from bionemo.screens import InputError

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
            held_out=None if held_out is None else read_pairs(held_out, "--held-out"),
            protocol=protocol,
            split=split,
            **of_training(training_conditions, hvg_from),
            strict=strict,
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


@app.command()
def reference(
    cells: Annotated[int, typer.Option(min=4, help="Cells of each perturbation.")] = 150,
    genes: Annotated[int, typer.Option(min=10, help="Genes.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all cores, sixteen at most.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Score a perfect mean, a perfect shift and a perfect population on simulated cells: what the metrics reward."""
    from rich.console import Console

    from bionemo.perteval import render
    from bionemo.perteval.reference import reference as run

    Console().print(render(run(cells=cells, genes=genes, seed=seed, threads=threads, progress=progress)))


def named(predicted: list[str]) -> Path | dict[str, list[Path]]:
    """Return what ``--predicted`` says: one path, or name -> files."""
    from bionemo.screens import InputError

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


def of_training(training_conditions: list[str] | None, hvg_from: list[str] | None) -> dict[str, Any]:
    """Return `training_conditions` and `hvg_from` of `evaluate` from what their options say."""
    from bionemo.perteval.rules.leakage import read_pairs

    option = "--training-conditions"
    files = _by_name(training_conditions, option)
    if isinstance(files, dict):
        pairs: Any = {name: read_pairs(path, option) for name, path in files.items()}
    else:
        pairs = None if files is None else read_pairs(files, option)
    return {"training_conditions": pairs, "hvg_from": _by_name(hvg_from, "--hvg-from")}


def _by_name(given: list[str] | None, option: str) -> str | dict[str, str] | None:
    """Return what an option says of all predictions, or name -> what it says of each."""
    from bionemo.screens import InputError

    if not given:
        return None
    if len(given) == 1 and ("=" not in given[0] or Path(given[0]).exists()):
        return given[0]
    values: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name or not value:
            raise InputError(f"{option} {each!r} names no prediction, but others do; write {option} name={each}.")
        if name in values:
            raise InputError(f"{option} says two things of {name!r}; leave one out.")
        values[name] = value
    return values


def main() -> None:
    """Entry point of the `perteval` command."""
    app()
