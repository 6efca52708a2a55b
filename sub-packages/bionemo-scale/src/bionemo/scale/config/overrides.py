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
    """Return the sections of a recipe with overrides applied, and further settings that were given, by name.

    An override is ``section.field=value``, or ``model=NAME`` for one of the named sizes. Where a field is set twice,
    the last value counts. `arguments` has the types of further settings, which belong to no section. An InputError says
    that there is no such setting, that a value is of the wrong type, or what values a section refuses.
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
    """Change settings of a recipe by the names of their fields alone, as :func:`overridden`; ``model`` names a size."""
    keys = {key.partition(".")[2]: key for key in settings_of(recipe)}
    if "model" in recipe and "model" in settings:
        chosen(settings["model"], MODELS)
        keys["model"] = "model"
    for name in settings:
        if name not in keys:
            raise InputError(f"no setting {name!r}: {choices(name, keys)}.")
    return overridden(recipe, [f"{keys[name]}={value}" for name, value in settings.items()])


def chosen(name: str, recipes: Mapping[str, _Found]) -> _Found:
    """Look a recipe, or a size, up by name; an InputError offers the nearest where there is none of that name."""
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
