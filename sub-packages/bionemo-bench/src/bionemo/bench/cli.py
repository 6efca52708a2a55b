"""Measure beside other projects' tools, by the command ``bionemo-bench``."""

import contextlib
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bionemo.bench.harness.environments import ArmError
from bionemo.bench.harness.report import write_json, writing
from bionemo.screens.command_line import one_sentence_ends_it
from bionemo.screens.errors import InputError
from bionemo.screens.printable import printable

_CACHE = Path("~/.cache/bionemo-bench")
_Cache = Annotated[Path, typer.Option(help="Directory of environments, data and logs; what is there is used again.")]
_Cells = Annotated[int, typer.Option(help="Cells of the screen that is made for it.")]
_Genes = Annotated[int, typer.Option(help="Genes.")]
_Values = Annotated[int, typer.Option(help="Non-zero counts of a cell, on average.")]
_Contexts = Annotated[int, typer.Option(help="Contexts.")]
_Perturbations = Annotated[int, typer.Option(help="Perturbations of each context, beside the control.")]
_Again = Annotated[
    bool, typer.Option("--convert-again", help="Make and time every format anew, those in the cache too.")
]
app = typer.Typer(
    help="Measure beside other tools.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.command(
    epilog="Examples: `bionemo-bench loader --out bench --cells 100000`, and beside all others "
    "`bionemo-bench loader --out bench --peers`"
)
def loader(
    out: Annotated[Path, typer.Option(help="Directory for loader.json, loader.md and loader.svg.")],
    peers: Annotated[
        bool, typer.Option("--peers", help="Install other projects' loaders and measure them too.")
    ] = False,
    cells: _Cells = 1_000_000,
    genes: _Genes = 2_000,
    nnz: _Values = 199,
    contexts: _Contexts = 10,
    perturbations: _Perturbations = 200,
    set_size: Annotated[int, typer.Option(help="Cells of a set.")] = 64,
    sets_per_batch: Annotated[int, typer.Option(help="Sets of a batch.")] = 16,
    seconds: Annotated[float, typer.Option(help="Of one measurement; slow loops are cut off there.")] = 10.0,
    repeats: Annotated[int, typer.Option(help="Measurements of each loop, in turn with the others; at least 3.")] = 3,
    arms: Annotated[
        list[str] | None, typer.Option("--arm", help="Measure only this loop; give it several times for several.")
    ] = None,
    cold: Annotated[bool, typer.Option(help="Measure with the files dropped from the page cache as well.")] = True,
    convert_again: _Again = False,
    cache: _Cache = _CACHE,
) -> None:
    """Time loops that read sets of cells: this project's, sorted h5py slices and, with --peers, other projects'."""
    from bionemo.bench.harness.screen import ScreenSize
    from bionemo.bench.loader.benchmark import LoaderBenchmark, run_loader_benchmark
    from bionemo.bench.loader.report import write_report

    size = ScreenSize(cells=cells, genes=genes, values_per_cell=nnz, contexts=contexts, perturbations=perturbations)
    benchmark = LoaderBenchmark(
        size=size,
        set_size=set_size,
        sets_per_batch=sets_per_batch,
        seconds=seconds,
        repeats=repeats,
        peers=peers,
        arms=tuple(arms or ()),
        cold=cold,
        convert_again=convert_again,
    )
    _check_writable(out)
    with writing(cache):
        result = run_loader_benchmark(benchmark, cache.expanduser())
    _show(write_report(result, out))


@app.command(
    epilog="Examples: `bionemo-bench throughput --out results`, and again later "
    "`bionemo-bench throughput --out again --baseline results/throughput.json --task training --arm scale`"
)
def throughput(
    out: Annotated[Path, typer.Option(help="Directory for throughput.json, throughput.md and throughput.svg.")],
    size: Annotated[str, typer.Option(help="Of both models: tiny, state_sm, state or tahoe.")] = "tiny",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    gpus: Annotated[int, typer.Option(help="GPUs that share a training.")] = 1,
    tasks: Annotated[list[str] | None, typer.Option("--task", help="training or inference; both if not given.")] = None,
    arms: Annotated[
        list[str] | None, typer.Option("--arm", help="Measure only this arm; give it several times for several.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Of one measurement; 0 for what the size says.")] = 0,
    repeats: Annotated[int, typer.Option(help="Measurements of each arm, in turn with the others; at least 3.")] = 3,
    threads: Annotated[int, typer.Option(help="That each process computes with.")] = 1,
    cells: _Cells = 160_000,
    genes: _Genes = 2_000,
    nnz: _Values = 540,
    contexts: _Contexts = 8,
    perturbations: _Perturbations = 12,
    baseline: Annotated[
        Path | None, typer.Option(help="An earlier throughput.json of this machine; end with 1 if 5% slower than it.")
    ] = None,
    read: Annotated[
        Path | None, typer.Option(help="Measure nothing: write table and plot of this throughput.json again.")
    ] = None,
    convert_again: _Again = False,
    cache: _Cache = _CACHE,
) -> None:
    """Train and predict beside STATE at matched sizes; STATE's environment is made once, or named in STATE_VENV."""
    from bionemo.bench.harness.screen import ScreenSize
    from bionemo.bench.throughput.arms import INFERENCE, TRAINING
    from bionemo.bench.throughput.benchmark import SCHEMA, run_throughput_benchmark
    from bionemo.bench.throughput.regression import check_comparable, read_baseline, reading, regressions, sentences
    from bionemo.bench.throughput.report import write_report
    from bionemo.bench.throughput.settings import ThroughputBenchmark, settings_of

    benchmark = ThroughputBenchmark(
        size=size,
        screen=ScreenSize(
            cells=cells, genes=genes, values_per_cell=nnz, contexts=contexts, perturbations=perturbations
        ),
        device=device,
        gpus=gpus,
        steps=steps,
        repeats=repeats,
        tasks=tuple(tasks or (TRAINING, INFERENCE)),
        arms=tuple(arms or ()),
        threads=threads,
        convert_again=convert_again,
    )
    before = None if baseline is None else read_baseline(baseline, SCHEMA)
    result = None if read is None else read_baseline(read, SCHEMA)
    _check_writable(out)
    if result is None:
        machine, settings = settings_of(benchmark)
        if before is not None and baseline is not None:
            with reading(baseline):
                check_comparable(before, machine, settings, baseline)
        with writing(cache):
            result = run_throughput_benchmark(benchmark, cache.expanduser())
    with contextlib.nullcontext() if read is None else reading(read):
        files = write_report(result, out)
    _show(files)
    if before is not None and baseline is not None:
        with reading(baseline):
            found = regressions(result, before)
        for sentence in sentences(found):
            typer.echo(sentence)
        if any(one["slower"] for one in found):
            raise typer.Exit(1)


@app.command(epilog="Example: `bionemo-bench scoring --out scoring.json --repeats 1`")
def scoring(
    out: Annotated[Path, typer.Option(help="JSON file for times, memory, differences, versions and machine.")],
    cells: Annotated[int, typer.Option(min=1, help="Cells that both score.")] = 50_000,
    genes: Annotated[int, typer.Option(min=1, help="Genes.")] = 2_000,
    perturbations: Annotated[int, typer.Option(min=1, help="Perturbations.")] = 50,
    growth: Annotated[
        str, typer.Option(help="Numbers of cells at which perteval scores all arms, with commas; or empty.")
    ] = ("50000,100000,200000,500000"),
    controls: Annotated[
        str, typer.Option(help="Control cells with which perteval scores all arms: `independent`, `shared`, `both`.")
    ] = "both",
    against: Annotated[
        str, typer.Option(help="`cell-eval`, or `cell-eval2` on the members of the Virtual Cell Challenge 2026.")
    ] = "cell-eval",
    repeats: Annotated[int, typer.Option(min=0, help="Of the comparison, alternating.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of perteval, worker processes of cell-eval.")] = 2,
    cache: _Cache = _CACHE,
) -> None:
    """Time scoring beside cell-eval itself, and how it grows with the number of cells."""
    _check_file(out)
    from bionemo.bench.scoring.benchmark import run

    size = {"cells": cells, "genes": genes, "perturbations": perturbations}
    grow = _numbers("--growth", growth)
    with writing(cache):
        found = run(
            cache.expanduser(),
            **size,
            growth=grow,
            controls=controls,
            against=against,
            repeats=repeats,
            threads=threads,
        )
    write_json(found, out)
    for engine, seconds in found["median_seconds"].items():
        cpu = found["median_cpu_seconds"][engine]
        typer.echo(f"{engine}: {seconds:.1f} s, {cpu:.1f} s of processors, for {cells} cells, median of {repeats}")
    if found["median_seconds"]:
        typer.echo(
            f"{found['times_faster']:.1f} times faster, {found['times_less_cpu']:.1f} times less processor time; "
            f"largest difference {max(found['largest_difference'].values()):.2g}"
        )
    for grown in found["growth"]:
        added = (grown["peak_bytes"] - grown["bytes_before"]) / 2**30
        typer.echo(f"{grown['cells']} cells: {grown['seconds']:.1f} s, {added:.2f} GiB beyond the input")


@app.command(epilog="Example: `bionemo-bench kernels --out kernels.json --rounds 4`")
def kernels(
    out: Annotated[Path, typer.Option(help="JSON file for the times, the verdicts and the machine.")],
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each form of each trick, alternating.")] = 8,
) -> None:
    """Time training and prediction with and without each form that was written for speed; a tenth is worth it."""
    _check_file(out)
    from bionemo.bench.kernels.benchmark import run

    result = run(rounds, report=typer.echo)
    write_json(result, out)
    for trick in result["tricks"]:
        verdict = "worth its lines" if trick["kept"] else "not worth its lines here"
        typer.echo(f"{trick['best']:.3f} at best, {verdict}: {trick['name']}")


@app.command(epilog="Example: `bionemo-bench atlas --out atlas --sizes 50000,100000,200000`")
def atlas(
    out: Annotated[Path, typer.Option(help="Directory for atlas.json, atlas.md and the files in between.")],
    sizes: Annotated[
        str, typer.Option(help="Numbers of cells, with commas; two or more give a slope and an extrapolation.")
    ] = "50000,200000",
    contexts: Annotated[int, typer.Option(help="Contexts.")] = 10,
    genes: Annotated[int, typer.Option(help="Genes.")] = 2_000,
    cells_per_condition: Annotated[
        int, typer.Option(help="Cells of a perturbation in a context; larger screens have more perturbations.")
    ] = 100,
    held_out: Annotated[float, typer.Option(help="Share of the conditions that are predicted and scored.")] = 0.1,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 50,
    recipe: Annotated[str, typer.Option(help="Model and training.")] = "scale_tiny",
    network_share: Annotated[float, typer.Option(help="Of the prediction; 0 is the linear start alone.")] = 0.5,
    arms: Annotated[str, typer.Option(help="Baselines of the evaluation: `all`, or the `main` ones.")] = "main",
    target: Annotated[int, typer.Option(min=1, help="Cells that the slope is followed to.")] = 100_000_000,
    keep: Annotated[bool, typer.Option("--keep", help="Keep screens, stores, runs and predictions.")] = False,
) -> None:
    """Simulate screens and take them through prepare, pretrain, predict and evaluate: time, memory, bytes written."""
    from bionemo.bench.atlas.benchmark import Atlas, forget, growth, run
    from bionemo.bench.atlas.report import write

    settings = Atlas(
        contexts=contexts,
        genes=genes,
        cells_per_condition=cells_per_condition,
        held_out=held_out,
        steps=steps,
        recipe=recipe,
        share=network_share,
        arms=arms,
    )
    _check_writable(out)
    with writing(out):
        result = run(settings, _numbers("--sizes", sizes), out, keep=keep, report=typer.echo)
    if len(result["sizes"]) > 1:
        result |= {"target_cells": target, "growth": growth(result, target)}
    files = write(result, out)
    if not keep:
        forget(result, out)
    _show(files)


@app.command(epilog="Example: `bionemo-bench serving --checkpoint run --controls screen.h5ad --out serving.json`")
def serving(
    checkpoint: Annotated[Path, typer.Option(help="Directory that `pretrain` wrote.")],
    controls: Annotated[Path, typer.Option(help="h5ad file with control cells of counts.")],
    out: Annotated[Path, typer.Option(help="JSON file for the times and the machine.")],
    cells: Annotated[int, typer.Option(min=1, help="Cells of each predicted population.")] = 512,
    conditions: Annotated[int, typer.Option(min=1, help="Populations that the throughput is of.")] = 1_000,
    repeats: Annotated[int, typer.Option(help="Single populations that the latency is of; at least 20.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="That compute.")] = 1,
    network_share: Annotated[float | None, typer.Option(help="Of the prediction; the run's own if not given.")] = None,
) -> None:
    """Time a model that stays loaded, and its export: one condition at a time, and very many."""
    _check_file(out)
    from bionemo.bench.serving.benchmark import run

    sizes = {"cells": cells, "conditions": conditions, "repeats": repeats, "threads": threads}
    write_json(run(checkpoint, controls, **sizes, network_share=network_share, report=typer.echo), out)


def _numbers(option: str, given: str) -> list[int]:
    try:
        return [int(number) for number in given.split(",") if number]
    except ValueError:
        raise InputError(f"{option} is {given!r}, but it takes whole numbers with commas between.") from None


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}): name another directory.") from error


def _check_file(out: Path) -> None:
    if out.is_dir():
        raise InputError(f"--out {out} is a directory: name a file in it.")
    _check_writable(out.parent)


def _show(files: dict[str, Path]) -> None:
    """Print the tables of a report, and where its files are."""
    for line in files["md"].read_text("utf-8").splitlines():
        typer.echo(printable(line))
    typer.echo("wrote " + ", ".join(map(str, files.values())))


def main() -> None:
    """Run the command; a user's mistake ends it with one sentence and exit code 2."""
    say = partial(typer.secho, fg="red", err=True)
    with one_sentence_ends_it(say):
        try:
            app()
        except ArmError as failed:
            say(f"not measured: {printable(str(failed))}")
            sys.exit(1)


if __name__ == "__main__":
    main()
