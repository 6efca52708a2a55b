"""The command line is one function a command; nothing heavy is imported before a command runs."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bionemo.perteval.cli import evaluate
from bionemo.scale.cli.predict import ManyPerturbations, predict
from bionemo.scale.cli.split import split
from bionemo.scale.config.agreement import check_agreement
from bionemo.scale.config.overrides import chosen, overridden
from bionemo.scale.config.presets import FINETUNING, PRETRAINING
from bionemo.scale.ending import said_when_it_ends, told_to_end
from bionemo.scale.environment import check_ranks
from bionemo.screens.command_line import one_sentence_ends_it
from bionemo.screens.errors import InputError

_STORE = Annotated[Path, typer.Option(help="Directory that `prepare` wrote.")]
_CHECK = Annotated[
    bool, typer.Option("--check", help="Only check the settings: neither files nor a GPU have to be there.")
]
_OVERRIDES = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. compute.devices=2.")
]
_DEVICE = Annotated[str, typer.Option(help="auto, cpu or cuda.")]

app = typer.Typer(
    name="bionemo-scale",
    help="Predict how populations of single cells respond to a perturbation.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command; a user's mistake ends it with one sentence and exit code 2."""
    from bionemo.scale.quiet import hush

    hush()
    with said_when_it_ends(), one_sentence_ends_it(partial(typer.secho, fg="red", err=True)):
        check_ranks()
        app()


@app.command(epilog="Example: `bionemo-scale simulate screen.h5ad --cells 20000 --contexts 4 --perturbations 12`")
def simulate(
    out: Annotated[Path, typer.Argument(help="h5ad file to write.")],
    cells: Annotated[int, typer.Option(help="Cells in all.")] = 20_000,
    genes: Annotated[int, typer.Option(help="Genes.")] = 1_000,
    contexts: Annotated[int, typer.Option(help="Contexts: cell lines, donors.")] = 4,
    perturbations: Annotated[int, typer.Option(help="Perturbations beside the control.")] = 12,
    batches: Annotated[int, typer.Option(help="Batches in each context.")] = 2,
    subpopulations: Annotated[int, typer.Option(help="Cell states that each context is a mixture of.")] = 3,
    doses: Annotated[int, typer.Option(help="Doses of each perturbation; 1 gives labels without a dose.")] = 1,
    combinations: Annotated[int, typer.Option(help="Pairs of perturbations given together.")] = 0,
    independent: Annotated[
        float, typer.Option(help="Share of an effect's variance that is a context's own and follows from nothing.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same file.")] = 0,
) -> None:
    """Write a simulated screen: counts, and the true effects and expected shifts beside them.

    Effects follow from the state of context and cell, so that they can be learned from control cells.
    """
    from bionemo.screens.simulation import simulate as run

    run(
        out, cells=cells, genes=genes, contexts=contexts, perturbations=perturbations, batches=batches, seed=seed,
        subpopulations=subpopulations, doses=doses, combinations=combinations, independent=independent,
    )  # fmt: skip
    typer.echo(f"{out}: {cells:,} cells x {genes:,} genes, {contexts} contexts, {perturbations} perturbations")


app.command(epilog="Example: `bionemo-scale split plates/*.h5ad --protocol tahoe100m --out split.toml`")(split)


@app.command(
    epilog="Examples: `bionemo-scale prepare screen.h5ad --store store --perturbation-key target "
    "--control non-targeting --context-key cell_line`; "
    "`bionemo-scale prepare archive --obs cells.csv --store store --protocol replogle-nadig`. "
    "After a kill the same command goes on."
)
def prepare(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help=".h5ad files, .zarr directories, bionemo-scdl archives.")
    ],
    store: Annotated[Path, typer.Option(help="Directory to write.")],
    obs: Annotated[
        list[Path] | None,
        typer.Option(help="For an archive: .csv or .parquet with a line per row, named by the first column; repeat."),
    ] = None,
    gene_column: Annotated[
        str | None, typer.Option(help="For an archive: its gene feature that holds the names, if there are several.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Columns and control label of tahoe100m, parse10m-pbmc, replogle-nadig or a TOML file; options go "
            "first."
        ),
    ] = None,
    perturbation_key: Annotated[str | None, typer.Option(help="obs column of the perturbation.")] = None,
    control: Annotated[str | None, typer.Option(help="Label of control cells in that column.")] = None,
    context_key: Annotated[
        str | None, typer.Option(help="obs column of the context: cell line, donor, cell type; A+B combines two.")
    ] = None,
    batch_key: Annotated[str | None, typer.Option(help="obs column of the batch.")] = None,
    layer: Annotated[str | None, typer.Option(help="A layer, raw/X or obsm/NAME to read instead of X.")] = None,
    genes: Annotated[
        str, typer.Option(help="Where the inputs' genes differ: same (refuse), intersection or union.")
    ] = "same",
    n_genes: Annotated[
        int | None,
        typer.Option(help="Highly variable genes to keep; all where the file has fewer.", show_default="2000"),
    ] = None,
    all_genes: Annotated[bool, typer.Option("--all-genes", help="Keep every gene.")] = False,
    genes_of: Annotated[
        Path | None, typer.Option(help="Keep the genes of this run or store, which `finetune` needs.")
    ] = None,
    split: Annotated[Path | None, typer.Option(help="Choose genes on the training cells of this split only.")] = None,
    hvg_from: Annotated[str, typer.Option(help="Choose them on train (the split's training cells) or all.")] = "train",
    target_sum: Annotated[
        float | None,
        typer.Option(help="Counts a cell is normalised to before log1p.", show_default="the protocol's, or 10000"),
    ] = None,
    log1p: Annotated[bool, typer.Option("--log1p", help="The data are normalised and log1p already.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store if it exists.")] = False,
    threads: Annotated[
        int | None, typer.Option(help="Threads that share the work.", show_default="the cores at hand, at most 8")
    ] = None,
) -> None:
    """Turn AnnData into a store: memory-mapped, sorted by condition, checksummed."""
    from bionemo.cellsets import describe
    from bionemo.cellsets import prepare as run
    from bionemo.scale.cli.genes import names_of_genes
    from bionemo.scale.cli.tables import show

    if all_genes and n_genes is not None:
        raise InputError(f"--n-genes {n_genes} and --all-genes contradict each other: give one of them.")
    if genes_of is not None and (all_genes or n_genes is not None):
        raise InputError("--genes-of says which genes to keep, and so does --n-genes or --all-genes: leave one out.")
    named = None if genes_of is None else names_of_genes(genes_of)
    variable = None if all_genes else 2_000 if n_genes is None else n_genes
    made = run(
        inputs, store, obs=obs, gene_column=gene_column, protocol=protocol, perturbation_key=perturbation_key,
        control=control, context_key=context_key, batch_key=batch_key, layer=layer, genes=genes, n_genes=variable,
        gene_names=named, hvg_from=hvg_from, target_sum=target_sum, split=split, already_log1p=log1p,
        overwrite=overwrite, threads=threads,
    )  # fmt: skip
    show(describe(made))


@app.command(epilog="Example: `bionemo-scale inspect store`")
def inspect(
    store: Annotated[Path, typer.Argument(help="Directory that `prepare` wrote.")],
    verify: Annotated[bool, typer.Option(help="Recompute every checksum.")] = True,
) -> None:
    """Show what a store holds, its checksums verified."""
    from bionemo.cellsets import CellStore, describe
    from bionemo.scale.cli.tables import show

    show(describe(CellStore.open(store), verify=verify))


@app.command(
    epilog="Example: `bionemo-scale pretrain --store store --split split.toml --recipe scale_tiny --out run "
    "training.max_steps=1000 model.hidden_size=128`"
)
def pretrain(
    store: _STORE,
    split: Annotated[Path, typer.Option(help="TOML file of held-out conditions, in the layout of STATE.")],
    out: Annotated[Path, typer.Option(help="Directory of the run; a run that was interrupted there goes on.")],
    recipe: Annotated[str, typer.Option(help="Model and training settings to start from.")] = "scale_tiny",
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Vectors of the perturbations: an .npz with one array for each under its name, or a .parquet table "
            "with a row for each, its name as the index or the only text column."
        ),
    ] = None,
    check: _CHECK = False,
    overrides: _OVERRIDES = None,
) -> None:
    """Train a model, or go on with a run that was interrupted."""
    settings = overridden(chosen(recipe, PRETRAINING), overrides or [])
    check_agreement(**settings)
    if check:
        typer.echo("the settings can be used")
        return
    with told_to_end(at_once=True):
        from bionemo.scale.training.pretrain import pretrain as run

        run(store, split, out, **settings, embeddings=embeddings)


@app.command(
    epilog="Example: `bionemo-scale finetune --from run --data new_store --split new.toml --out tuned`; few weights: "
    "`... --recipe low_rank tuning.rank=4`"
)
def finetune(
    start: Annotated[
        Path, typer.Option("--from", help="Directory of a run, or one of its checkpoints/step=N; the best if not said.")
    ],
    store: Annotated[Path, typer.Option("--data", "--store", help="Directory that `prepare` wrote of the new data.")],
    split: Annotated[Path, typer.Option(help="TOML file of held-out conditions of the new data.")],
    out: Annotated[Path, typer.Option(help="Directory of the run to make; one that was interrupted there goes on.")],
    recipe: Annotated[str, typer.Option(help="full, frozen_encoder or low_rank.")] = "full",
    embeddings: Annotated[
        Path | None, typer.Option(help="For a model with embeddings: their file, the new perturbations added.")
    ] = None,
    check: _CHECK = False,
    overrides: _OVERRIDES = None,
) -> None:
    """Train a trained model further on new data, contexts and perturbations."""
    settings = overridden(chosen(recipe, FINETUNING), overrides or [])
    if check:
        typer.echo("the settings can be used")
        return
    with told_to_end(at_once=True):
        from bionemo.scale.finetuning.finetune import finetune as run

        run(start, store, split, out, **settings, embeddings=embeddings)


@app.command(
    epilog="Example: `bionemo-scale profile --store store --split split.toml --recipe scale_tiny --out profiled`"
)
def profile(
    store: _STORE,
    split: Annotated[Path, typer.Option(help="TOML file of held-out conditions.")],
    out: Annotated[Path, typer.Option(help="Directory to write; must not exist.")],
    recipe: Annotated[str, typer.Option(help="Model and training settings.")] = "scale_tiny",
    steps: Annotated[int, typer.Option(min=1, help="Training steps to profile, after three to warm up.")] = 5,
    overrides: _OVERRIDES = None,
) -> None:
    """Say where the time of a training step goes: a table, and a trace for Perfetto."""
    if out.exists():
        raise InputError(f"--out {out} exists: name a directory that does not.")
    # One step more than is profiled, so that writing the last checkpoint is no part of it.
    lengths = [f"training.max_steps={steps + 4}", "training.warmup_steps=1", f"training.profile_steps={steps}"]
    fixed = [*lengths, "training.trial=false"]
    settings = overridden(chosen(recipe, PRETRAINING), [*(overrides or []), *fixed])
    from bionemo.scale.training.pretrain import pretrain as run

    run(store, split, out, **settings)
    typer.echo((out / "profile" / "table.txt").read_text())
    typer.echo(f"trace: {out / 'profile' / 'trace.json'}")


app.command(
    cls=ManyPerturbations,
    epilog="Example: `bionemo-scale predict --checkpoint run --controls screen.h5ad --like screen.h5ad --out p.h5ad`",
)(predict)


app.command(
    epilog="Example: `bionemo-scale evaluate --predicted pred.h5ad --observed screen.h5ad --split split.toml "
    "--out report`"
)(evaluate)


@app.command(epilog="Example: `bionemo-scale export run --out exported`")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Directory that `pretrain` wrote, or one of its checkpoints.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    device: _DEVICE = "auto",
) -> None:
    """Write a model as safetensors and JSON, with the one file of plain torch that runs it."""
    from bionemo.scale.runs.export import export as run

    run(checkpoint, out, device)
    typer.echo(f"wrote {out}: model.safetensors, config.json, scale_portable.py, checksums.json")


@app.command("import", epilog="Example: `bionemo-scale import exported --out run`")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="EXPORTED", help="Directory that `export` wrote.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    device: _DEVICE = "auto",
) -> None:
    """Make a run of an exported model: it predicts, and `pretrain` starts from its weights."""
    from bionemo.scale.runs.import_export import import_export as run

    run(folder, out, device)
    typer.echo(f"wrote {out}")
