"""``bionemo-scale predict`` predicts from file to file."""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from bionemo.scale.config.prediction import Layout, MissingGenes, Part
from bionemo.screens.controls import Controls


class ManyPerturbations(TyperCommand):
    """`ManyPerturbations` takes all words up to the next option for ``--perturbations``, and no other."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        """Repeat the option before each of its words, as click wants it."""
        option, spread, names = "--perturbations", [], False
        for word in args:
            if word.startswith("-"):
                names = word == option
                spread += [] if names else [word]
            else:
                spread += [option, word] if names else [word]
        return super().parse_args(ctx, spread)


def predict(
    checkpoint: Annotated[
        Path,
        typer.Option(help="Directory that `pretrain` wrote, or one of its checkpoints/step=N; the best if not said."),
    ],
    controls: Annotated[Path, typer.Option(help="Control cells to start from: h5ad file, zarr directory or store.")],
    out: Annotated[Path, typer.Option(help="h5ad file to write, or a folder for shards.")],
    perturbations: Annotated[
        list[str] | None, typer.Option(metavar="NAME...", help="What to apply; all of --like if not given.")
    ] = None,
    like: Annotated[Path | None, typer.Option(help="Predict as many cells of each condition as this file has.")] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            help="Observed cells of new perturbations and their controls; they are predicted in other contexts."
        ),
    ] = None,
    part: Annotated[Part | None, typer.Option(help="Conditions of --like, by the split.", show_default="test")] = None,
    perturbation_key: Annotated[str | None, typer.Option(help="obs column; the training data's if not given.")] = None,
    context_key: Annotated[str | None, typer.Option(help="obs column; the training data's if not given.")] = None,
    batch_key: Annotated[str | None, typer.Option(help="obs column; the training data's if not given.")] = None,
    control: Annotated[str | None, typer.Option(help="Control label; the training data's if not given.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the controls; X if not given.")] = None,
    missing_genes: Annotated[
        MissingGenes | None,
        typer.Option(help="Fill genes that the controls lack, a tenth of the model's at most.", show_default="refuse"),
    ] = None,
    control_roles: Annotated[
        Controls | None,
        typer.Option(
            help="Start from control cells of role input, or from all of them, as published protocols do.",
            show_default="the training run's",
        ),
    ] = None,
    network_share: Annotated[
        float | None,
        typer.Option(help="0 is the linear start alone, 1 the whole network.", show_default="as validation chose"),
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(
            "--format",
            help="vcc2026 writes a submission to that challenge: whole counts, and the control cells.",
            show_default="log1p cells",
        ),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option(help="With --format: CSV with columns target,cells, what to predict and how many cells of each."),
    ] = None,
    panel: Annotated[
        Path | None,
        typer.Option(help="With --format: text file of the genes, one a line, in their order; else the model's."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same cells.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Processes that share the work, a GPU each where there are any; or use torchrun.")
    ] = 1,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads, unless OMP_NUM_THREADS says it; beside a GPU they make the cells.")
    ] = 1,
) -> None:
    """Predict perturbed cells from control cells. A command that was ended goes on when it is given again."""
    from bionemo.scale.inference.predict import is_whole
    from bionemo.scale.inference.predict import predict as run
    from bionemo.scale.inference.ranks import started
    from bionemo.scale.threads import use_threads

    use_threads(threads)
    with started(devices) as rank:
        made_of, cells = run(
            checkpoint, controls, out, perturbations=perturbations or (), like=like, part=part, evidence=evidence,
            perturbation_key=perturbation_key, context_key=context_key, batch_key=batch_key, control=control,
            layer=layer, missing_genes=missing_genes, control_roles=control_roles, network_share=network_share,
            layout=layout, targets=targets, panel=panel, overwrite=overwrite, seed=seed, device=device, rank=rank,
        )  # fmt: skip
    if not rank.number:
        done = "wrote" if is_whole(out) else f"rank 0 of {rank.of} has done its part of"
        typer.echo(f"{done} {out}: {cells:,} cells, {made_of}")
