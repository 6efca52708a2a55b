"""Turn ``key=value`` into typed settings: the one way, for our command and for nemo-run's."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from enum import StrEnum
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from bionemo.scale.config.presets import MODELS, Recipe
from bionemo.screens.errors import InputError, choices

_Found = TypeVar("_Found")
_TRUTH = {"true": True, "false": False}
_SPOKEN = {int: "a whole number", float: "a number", bool: "true or false"}


def overridden(recipe: Recipe, overrides: Iterable[str], arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Apply overrides to the sections of a recipe.

    Parameters
    ----------
    recipe
        Name of a section -> its configuration, a frozen dataclass.
    overrides
        ``section.field=value``, or ``model=NAME`` for one of the named sizes. Where a field is set twice, the last
        value counts.
    arguments
        Name -> type of further settings, which belong to no section.

    Returns
    -------
    dict
        Name of each section -> its configuration with the overrides applied; and the further settings that were given.

    Raises
    ------
    InputError
        No such setting, a value of the wrong type, or values that a section refuses.
    """
    sections, changes = dict(recipe), {name: {} for name in recipe}
    given, kinds = {}, {**(arguments or {}), **settings_of(recipe)}
    for override in overrides:
        key, value = key_and_value(override)
        if key == "model" and value in MODELS and "model" in sections:
            sections["model"] = MODELS[value]
            continue
        if key not in kinds:
            raise InputError(f"no setting {key!r}: {choices(key, kinds)}.")
        section, dot, field = key.partition(".")
        where = changes[section] if dot else given
        where[field or key] = typed(key, value, kinds[key])
    return given | {name: _changed(name, config, changes[name]) for name, config in sections.items()}


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Change settings of a recipe, by the names of their fields alone.

    Parameters
    ----------
    recipe
        Name of a section -> its configuration.
    settings
        Field -> value; or ``model`` -> the name of one of the sizes.

    Raises
    ------
    InputError
        No such setting, a value of the wrong type, or values that a section refuses.
    """
    sections, kinds = dict(recipe), settings_of(recipe)
    section_of = {key.partition(".")[2]: key.partition(".")[0] for key in kinds}
    changes: dict[str, dict[str, Any]] = {name: {} for name in recipe}
    for name, value in settings.items():
        if name == "model" and "model" in recipe:
            sections["model"] = chosen(value, MODELS)
            continue
        if name not in section_of:
            raise InputError(f"no setting {name!r}: {choices(name, section_of)}.")
        kind = kinds[f"{section_of[name]}.{name}"]
        changes[section_of[name]][name] = value if _fits(value, kind) else typed(name, str(value), kind)
    return {name: _changed(name, config, changes[name]) for name, config in sections.items()}


def _fits(value: Any, kind: Any) -> bool:
    """Say whether a value is of the type that its setting takes; a whole number is a number, a truth value is none."""
    kinds = get_args(kind) or (kind,)
    return (type(value) is int and float in kinds) or type(value) in kinds


def chosen(name: str, recipes: Mapping[str, _Found]) -> _Found:
    """Look a recipe, or a size, up by name.

    Raises
    ------
    InputError
        There is none of that name; the sentence offers the nearest.
    """
    if name not in recipes:
        raise InputError(f"no recipe {name!r}: {choices(name, recipes)}.")
    return recipes[name]


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Map every setting, ``section.field``, to the type that it takes."""
    return {
        f"{section}.{name}": kind
        for section, config in recipe.items()
        for name, kind in get_type_hints(type(config)).items()
        if name in {field.name for field in fields(config)}
    }


def key_and_value(override: str) -> tuple[str, str]:
    """Split ``key=value``."""
    key, equals, value = override.partition("=")
    if not equals:
        raise InputError(f"{override!r} is not of the form key=value.")
    return key, value


def typed(key: str, text: str, kind: Any) -> Any:
    """Read the text of a value as the type that its setting takes; an InputError names setting, type and text."""
    if kind is str or str in get_args(kind):
        return text
    if isinstance(kind, UnionType):
        if text.lower() == "none":
            return None
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    try:
        return _TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        takes = f"one of {', '.join(kind)}" if issubclass(kind, StrEnum) else _SPOKEN[kind]
        raise InputError(f"{key} takes {takes}, not {text!r}.") from None


def _changed(section: str, config: Any, changes: dict[str, Any]) -> Any:
    try:
        return replace(config, **changes)
    except InputError as refused:
        raise InputError(f"{section}.{refused}") from None
