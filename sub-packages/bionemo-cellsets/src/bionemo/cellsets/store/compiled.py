"""Compile loops with numba. Importing this module imports numba, which takes a second."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable, **options: Any) -> Any:
    """Compile a function that runs without the GIL, and keep the result on disk where there is a folder for it."""
    try:
        return numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # no writable folder for the cache, as in a read-only container
        return numba.njit(nogil=True, **options)(function)
