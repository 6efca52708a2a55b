"""Check what several configurations have in common: names of choices, and ranges of numbers."""

import math
from dataclasses import fields
from enum import StrEnum
from typing import Any, get_type_hints

from bionemo.screens.errors import InputError


def check_fields(config: Any, *, may_be_zero: tuple[str, ...] = ()) -> None:
    """Turn names of choices into their enumerations, and check that every number of a configuration is in its range.

    Whole numbers are at least 1, or 0 where the field is one of ``may_be_zero``; others are finite and not negative. An
    InputError names the field, and its choices or its least number.
    """
    kinds = get_type_hints(type(config))
    for field in fields(config):
        name, kind, value = field.name, kinds[field.name], getattr(config, field.name)
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            try:
                object.__setattr__(config, name, kind(value))
            except ValueError:
                raise InputError(f"{name}={value!r} is not one of {', '.join(kind)}.") from None
        elif kind is int and value < (least := 0 if name in may_be_zero else 1):
            raise InputError(f"{name}={value} must be at least {least}.")
        elif kind is float and not 0 <= value < math.inf:
            raise InputError(f"{name}={value} must be a number of 0 or more.")
