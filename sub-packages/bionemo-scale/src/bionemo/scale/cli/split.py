"""Hold out what a benchmark holds out: ``bionemo-scale split``."""

from pathlib import Path
from typing import Annotated

import typer

from bionemo.screens.errors import InputError, name_list


def split(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help=".h5ad files or .zarr directories.")],
    protocol: Annotated[str, typer.Option(help="tahoe100m, parse10m-pbmc, replogle-nadig, or a TOML file.")],
    out: Annotated[Path, typer.Option(help="TOML file to write; must not exist.")],
) -> None:
    """Write what a benchmark holds out of your files, as the split file that the other commands read."""
    from bionemo.cellsets.inputs.conditions import observed_conditions
    from bionemo.screens.making import file_made_whole, sweep
    from bionemo.screens.protocol import find_protocol

    if out.exists():
        sweep(out)
        raise InputError(f"--out {out} exists: name another file, or remove it.")
    rules = find_protocol(protocol)
    observed = observed_conditions(inputs, perturbation_key=rules.perturbation_key, context_key=rules.context_key)
    held_out = rules.split_of(observed.keys())
    absent = rules.held_out.absent({context for context, _ in observed}) if rules.held_out else []
    if absent:
        raise InputError(
            f"The protocol '{rules.name}' holds out {name_list(absent)}, and no observed context is one of these: give "
            "all files of the data set."
        )
    conditions = held_out.held_out(observed, rules.control) if held_out is not None else []
    if held_out is None or not conditions:
        raise InputError(
            f"The protocol '{rules.name}' lists no perturbation that the held-out contexts of these files have: write "
            "the split file yourself."
        )
    comment = f"What the protocol {rules.name} holds out of the files that `bionemo-scale split` was given."
    try:
        with file_made_whole(out) as new:
            new.write_text(held_out.to_toml(rules.name, comment), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}): name another file.") from error
    typer.echo(f"{out}: {len(conditions):,} conditions held out in {len(held_out.fewshot)} contexts")
