"""``key=value`` on the command line to a configured recipe."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from difflib import get_close_matches

import fiddle as fdl
from nemo_run.cli.cli_parser import CLIException, parse_cli_args

from bionemo.scale.errors import InputError
from bionemo.scale.recipes.pretrain import RECIPES


def configured(recipe: str, overrides: Sequence[str]) -> Callable[[], None]:
    """Apply overrides to a recipe by name.

    Parameters
    ----------
    recipe
        A name of ``RECIPES``.
    overrides
        ``key=value`` with dotted keys (``training.max_steps=100``), in nemo-run's syntax.

    Returns
    -------
    callable
        Runs the recipe.

    Raises
    ------
    InputError
        No such recipe or key, or a value of the wrong type.
    """
    if recipe not in RECIPES:
        raise InputError(f"no recipe {recipe!r}{_nearest(recipe, RECIPES)}; there are {', '.join(RECIPES)}.")
    partial = RECIPES[recipe]()
    # It logs, at length, what it raises.
    logging.getLogger("nemo_run.cli.cli_parser").setLevel(logging.CRITICAL)
    for override in overrides:
        key, kind = _checked_key(override, partial)
        try:
            partial = parse_cli_args(partial, [override])  # type: ignore[arg-type]
        except (CLIException, ValueError, TypeError):
            raise InputError(f"{key} takes {kind}, not {override.partition('=')[2]!r}.") from None
    logging.getLogger("nemo_run").setLevel(logging.WARNING)
    try:
        return fdl.build(partial)
    except InputError as error:
        # fiddle adds lines about the call it made.
        raise InputError(str(error).splitlines()[0]) from None


def _checked_key(override: str, partial: fdl.Buildable) -> tuple[str, str]:
    """Key of an override and the name of the type it takes."""
    key, equals, _ = override.partition("=")
    if not equals:
        raise InputError(f"{override!r} is not of the form key=value.")
    known = {"store": "str", "split": "str", "out": "str", "embeddings": "str"}
    for section in ("model", "training"):
        fields = dataclasses.fields(fdl.get_callable(getattr(partial, section)))  # type: ignore[arg-type]
        known |= {f"{section}.{field.name}": getattr(field.type, "__name__", str(field.type)) for field in fields}
    if key not in known:
        near = _nearest(key, known) or ": see the fields of ScaleConfig and TrainingConfig"
        raise InputError(f"no setting {key!r}{near}.")
    return key, known[key]


def _nearest(name: str, known) -> str:
    near = get_close_matches(name, list(known), 1, cutoff=0.4)
    return f" (did you mean {near[0]!r}?)" if near else ""
