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
    for override in overrides:
        key = _checked_key(override, partial)
        try:
            partial = parse_cli_args(partial, [override])
        except (CLIException, ValueError, TypeError) as error:
            raise InputError(f"{override!r} is no value for {key}: {str(error).splitlines()[0]}.") from None
    logging.getLogger("nemo_run").setLevel(logging.WARNING)
    return fdl.build(partial)


def _checked_key(override: str, partial: fdl.Buildable) -> str:
    key, equals, _ = override.partition("=")
    if not equals:
        raise InputError(f"{override!r} is not of the form key=value.")
    known = {"store", "split", "out"}
    for section in ("model", "training"):
        fields = dataclasses.fields(fdl.get_callable(getattr(partial, section)))  # type: ignore[arg-type]
        known |= {f"{section}.{field.name}" for field in fields}
    if key not in known:
        raise InputError(f"no setting {key!r}{_nearest(key, known)}.")
    return key


def _nearest(name: str, known) -> str:
    near = get_close_matches(name, list(known), 1, cutoff=0.4)
    return f": did you mean {near[0]!r}" if near else ""
