"""Define the `perteval` command."""

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from bionemo.screens.command_line import one_sentence_ends_it
from bionemo.screens.errors import InputError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False
)
Value = TypeVar("Value")


@app.callback()
def _root() -> None:
    """Score predicted cells against observed cells, between their baselines and their ceiling."""


@app.command(epilog="Example: `evaluate --predicted predicted.h5ad --observed screen.h5ad --out report`")
def evaluate(
    predicted: Annotated[
        list[str],
        typer.Option(
            help="Predicted cells (h5ad, zarr, a folder of shards), X in log1p. Several predictions: repeat as "
            "`name=file.h5ad`; several training seeds of one: `name=a.h5ad,b.h5ad`, or repeat the name."
        ),
    ],
    observed: Annotated[
        Path, typer.Option(help="Observed cells (h5ad, zarr), counts or log1p; best the whole screen.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.html, metrics.json and the CSV files.")],
    perturbation_key: Annotated[
        str | None,
        typer.Option(help="Column of obs with the perturbation; this and the next three: else the prediction's uns."),
    ] = None,
    control: Annotated[str | None, typer.Option(help="Label of the control cells.")] = None,
    context_key: Annotated[
        str | None, typer.Option(help="Column of obs with the context: cell type, line, donor; `A+B` joins two.")
    ] = None,
    target_sum: Annotated[
        float | None, typer.Option(help="Counts per cell that observed counts are scaled to.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the observed file instead of X.")] = None,
    within: Annotated[
        str | None,
        typer.Option(
            help="Column of obs by which contexts are divided into subpopulations that are scored apart, such as cell "
            "types; predicted cells have the label of the control cell they were made from."
        ),
    ] = None,
    min_cells: Annotated[
        int | None,
        typer.Option(help="Leave out conditions with fewer predicted, observed or control cells; the report says so."),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="CSV with columns context,perturbation: further conditions the baselines must not use."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="tahoe100m, parse10m-pbmc, replogle-nadig, or a TOML file: keys and held-out contexts. `vcc2026`: a "
            "submission or a prediction by the rules of that challenge alone."
        ),
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
    controls: Annotated[
        str,
        typer.Option(
            help="Control cells: `independent` (predicted and observed shifts have other ones), `shared` as published "
            "protocols have them, or `both`."
        ),
    ] = "both",
    control_rotation: Annotated[
        int | None,
        typer.Option(
            help="Which parts of the control cells have which role, 0 to 2; where the prediction does not say."
        ),
    ] = None,
    arms: Annotated[str, typer.Option(help="`all` baselines and oracles, or the `main` ones.")] = "all",
    engine: Annotated[
        str,
        typer.Option(
            help="`0.6`; `0.8` also scores with that cell-eval, `vcc2026` also with the members of the Virtual Cell "
            "Challenge 2026, `cell-eval2` with those as it computes them; packages in environments made for them."
        ),
    ] = "0.6",
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each job; all cores, sixteen at most, divided among the jobs.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes that share the contexts.")] = 1,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Score predictions beside their baselines and their ceiling, and write the report."""
    options: dict[str, Any] = dict(locals())
    from rich.console import Console

    from bionemo import perteval
    from bionemo.perteval.rules.leakage import read_pairs

    options["predicted"] = named_files(predicted)
    if protocol == "vcc2026":
        from bionemo.perteval.engines import vcc2026

        taken = signature(perteval.evaluate_submission).parameters
        others = {name: of.default for name, of in signature(evaluate).parameters.items() if name not in taken}
        unused = [name for name, default in others.items() if name != "protocol" and options[name] != default]
        if unused:
            listed = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
            raise InputError(
                f"--protocol vcc2026 does not take {listed}: the challenge has its own rules; leave it out."
            )
        options["engine"] = "vcc2026" if engine == "0.6" else engine
        found = perteval.evaluate_submission(**{name: options[name] for name in taken})
        Console().print(vcc2026.render(found))
        typer.echo(f"report: {out / 'report.html'}")
        return
    options["held_out"] = None if held_out is None else read_pairs(held_out, "--held-out")
    options["hvg_from"] = by_name(hvg_from, "--hvg-from", str)
    options["training_conditions"] = by_name(
        training_conditions, "--training-conditions", lambda path: read_pairs(path, "--training-conditions")
    )
    evaluation = perteval.evaluate(**options)
    Console().print(perteval.render(evaluation))
    typer.echo(f"report: {out / 'report.html'}")


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


def named_files(predicted: list[str]) -> Any:
    """Return what ``--predicted`` says: one path, or name -> paths."""
    if _is_of_all(predicted):
        return predicted[0]
    files: dict[str, list[str]] = {}
    mend = "Several predictions need names, but {!r} has none; write --predicted name=file.h5ad."
    for name, paths in _named(predicted, mend):
        files.setdefault(name, []).extend(paths.split(","))
    return files


def by_name(given: list[str] | None, option: str, read: Callable[[str], Value]) -> Value | dict[str, Value] | None:
    """Return what an option says of all predictions, or name -> what it says of each, as `read` takes the value.

    Raises
    ------
    InputError
        Where some of several values have no name, or two have the same.
    """
    if not given:
        return None
    if _is_of_all(given):
        return read(given[0])
    values: dict[str, Value] = {}
    for name, value in _named(
        given, f"{option} {{0!r}} names no prediction, but others do; write {option} name={{0}}."
    ):
        if name in values:
            raise InputError(f"{option} says two things of {name!r}; leave one out.")
        values[name] = read(value)
    return values


def _is_of_all(given: list[str]) -> bool:
    return len(given) == 1 and ("=" not in given[0] or Path(given[0]).exists())


def _named(given: list[str], mend: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of each ``name=value``; `mend` is what to say of one that is none."""
    for each in given:
        name, _, value = each.partition("=")
        if not name or not value:
            raise InputError(mend.format(each))
        yield name, value


def main() -> None:
    """Run the `perteval` command; a user's mistake ends it with one sentence and exit code 2."""
    with one_sentence_ends_it(partial(typer.secho, fg="red", err=True)):
        app()


if __name__ == "__main__":
    main()
