"""JSON files that a run keeps about itself, each with a checksum of what it says."""

import json
import os
from pathlib import Path
from typing import Any

from bionemo.screens.digests import digest


def write_sealed(path: Path, values: dict[str, Any]) -> bytes:
    """Write values with their checksum, whole or not at all, else an OSError; return what the file holds."""
    values = json.loads(json.dumps(values))
    written = json.dumps({**values, "sha256": digest(values)}, indent=1).encode()
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(written)
    os.replace(partial, path)
    return written


def read_sealed(path: Path) -> tuple[dict[str, Any], bool]:
    """Read values, and tell whether they are those that were written.

    An OSError says that the file cannot be read, and a ValueError that it is not JSON, or no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
        return values, values.pop("sha256", None) == digest(values)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
