"""Compile loops with numba where they are first called: its import takes a second, which only they are worth."""

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that runs without the GIL, and keep the result on disk where there is a folder for it."""
    import numba

    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # nowhere to keep compiled code
        return numba.njit(nogil=True)(function)
