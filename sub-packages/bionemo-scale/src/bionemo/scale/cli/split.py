"""Hold out what a benchmark holds out: ``bionemo-scale split``."""

from pathlib import Path
from typing import Annotated

import typer

from bionemo.screens.errors import InputError


def split(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help=".h5ad files or .zarr directories.")],
    protocol: Annotated[str, typer.Option(help="tahoe100m, parse10m-pbmc, replogle-nadig, or a TOML file.")],
    out: Annotated[Path, typer.Option(help="TOML file to write; must not exist.")],
) -> None:
    """Draw the held-out perturbations of a benchmark, where the published lists are not at hand."""
    from bionemo.cellsets.inputs.conditions import observed_conditions
    from bionemo.screens.drawn_split import draw_split
    from bionemo.screens.protocol import find_protocol

    if out.exists():
        raise InputError(f"--out {out} exists: name another file, or remove it.")
    rules = find_protocol(protocol)
    observed = observed_conditions(inputs, perturbation_key=rules.perturbation_key, context_key=rules.context_key)
    drawn = draw_split(rules, observed.keys())
    comment = f"Drawn by `bionemo-scale split --protocol {rules.name}`: not the published lists."
    try:
        out.write_text(drawn.to_toml(rules.name, comment), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}): name another file.") from error
    held_out = [names for parts in drawn.fewshot.values() for names in parts.values()]
    typer.echo(f"{out}: {sum(map(len, held_out)):,} conditions held out in {len(drawn.fewshot)} contexts")
