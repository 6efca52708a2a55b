"""Hash plain values and files by SHA-256, which tells whether they are those that were written."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(values: Any) -> str:
    """Return the SHA-256 of values that are fit for JSON, hexadecimal, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
