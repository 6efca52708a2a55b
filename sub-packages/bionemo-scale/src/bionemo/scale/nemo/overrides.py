"""``key=value`` on the command line to a configured recipe."""

import dataclasses
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

import fiddle as fdl
import nemo_run as run
from nemo_run.cli.cli_parser import CLIException, parse_cli_args

from bionemo.scale.config.presets import MODELS
from bionemo.scale.nemo.pretrain import RECIPES
from bionemo.screens.errors import InputError

Recipes = Mapping[str, Callable[[], run.Partial]]


def configured(recipe: str, overrides: Sequence[str], recipes: Recipes = RECIPES) -> Callable[[], None]:
    """Apply overrides to a recipe by name, and build it.

    Parameters
    ----------
    recipe
        A name of ``recipes``.
    overrides
        ``key=value`` with dotted keys (``training.max_steps=100``), in nemo-run's syntax.
    recipes
        The recipes of one task.

    Returns
    -------
    callable
        Runs the recipe.

    Raises
    ------
    InputError
        No such recipe or key, or a value of the wrong type.
    """
    return built(overridden(recipe, overrides, recipes))


def overridden(recipe: str, overrides: Sequence[str], recipes: Recipes) -> run.Partial:
    """The same, not built: every setting can still be seen and set."""
    if recipe not in recipes:
        raise InputError(f"no recipe {recipe!r}{nearest(recipe, recipes)}; there are {', '.join(recipes)}.")
    partial = recipes[recipe]()
    # It logs, at length, what it raises.
    logging.getLogger("nemo_run.cli.cli_parser").setLevel(logging.CRITICAL)
    for override in overrides:
        _apply(override, partial)
    logging.getLogger("nemo_run").setLevel(logging.WARNING)
    return partial


def built(partial: run.Partial) -> Callable[[], None]:
    """Build what a recipe configures; a wrong value is an :class:`InputError`, and so is a missing argument."""
    for name, parameter in _parameters(partial).items():
        if parameter.default is parameter.empty and not hasattr(partial, name):
            raise InputError(f"{name} is not given: add {name}=... to the command.")
    try:
        return fdl.build(partial)
    except InputError as error:
        # fiddle adds lines about the call it made.
        raise InputError(str(error).splitlines()[0]) from None


def _apply(override: str, partial: run.Partial) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise InputError(f"{override!r} is not of the form key=value.")
    if key == "model" and value in MODELS and "model" in _sections(partial):
        partial.model = MODELS[value]()
        return
    kinds = _kinds(partial)
    if key not in kinds:
        near = nearest(key, kinds) or f": there are {', '.join(_shown(partial))}"
        raise InputError(f"no setting {key!r}{near}.")
    kind = kinds[key]
    if kind in (str, str | None):
        # nemo-run would take a word that happens to be the name of a factory for that factory.
        section, _, name = key.rpartition(".")
        setattr(getattr(partial, section) if section else partial, name, value)
        return
    try:
        parse_cli_args(partial, [override])  # type: ignore[arg-type]
    except (CLIException, ValueError, TypeError):
        raise InputError(f"{key} takes {getattr(kind, '__name__', kind)}, not {value!r}.") from None


def _parameters(partial: run.Partial) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(fdl.get_callable(partial)).parameters  # type: ignore[arg-type]


def _sections(partial: run.Partial) -> list[str]:
    """Arguments that are configurations."""
    return [name for name in _parameters(partial) if isinstance(getattr(partial, name, None), fdl.Buildable)]


def _kinds(partial: run.Partial) -> dict[str, object]:
    """Every setting and the type it takes."""
    sections = _sections(partial)
    kinds = {name: given.annotation for name, given in _parameters(partial).items() if name not in sections}
    for section in sections:
        fields = dataclasses.fields(fdl.get_callable(getattr(partial, section)))  # type: ignore[arg-type]
        kinds |= {f"{section}.{field.name}": field.type for field in fields}
    return kinds


def _shown(partial: run.Partial) -> list[str]:
    sections = _sections(partial)
    return [f"{name}.*" if name in sections else name for name in _parameters(partial)]


def nearest(name: str, known) -> str:
    """What may have been meant, in brackets; nothing where nothing is near."""
    near = get_close_matches(name, list(known), 1, cutoff=0.4)
    return f" (did you mean {near[0]!r}?)" if near else ""
