"""Read and check the TOML files of this package: splits and protocols."""

import tomllib
from pathlib import Path
from typing import Any

from bionemo.screens.errors import InputError


def read_toml(path: str | Path, kind: str) -> dict[str, Any]:
    """Parse a TOML file; messages call it by its kind, such as ``split``.

    Raises
    ------
    InputError
        The file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The {kind} file {path} cannot be read ({error.strerror}): name an existing file") from error
    except ValueError as error:
        raise InputError(f"The {kind} file {path} is not valid TOML ({error}): mend that line") from error
