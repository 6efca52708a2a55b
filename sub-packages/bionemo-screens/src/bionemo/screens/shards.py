"""Find the files of a prediction that lies in shards, and make sure that they are what its index says.

A folder of shards has a ``plan.json``, which says what is predicted, an h5ad file for each shard, and, once all of them
are there, an ``index.json`` with their names and checksums.
"""

import hashlib
import json
from functools import partial
from pathlib import Path

from bionemo.screens.errors import InputError

PLAN, INDEX = "plan.json", "index.json"
FORMAT = 1
CHECKSUM = partial(hashlib.blake2b, digest_size=8)
"""Of the bytes of a shard."""
_ANEW = "give the command that predicts it again, which makes anew what is lost or damaged"


def holds_shards(folder: Path) -> bool:
    """Say whether a folder holds a prediction in shards, finished or not."""
    return any((folder / name).is_file() for name in (PLAN, INDEX))


def checked_shards(folder: Path) -> list[Path]:
    """Return the files of a prediction in their order, after all of them were read and found whole.

    Raises
    ------
    InputError
        The prediction is not finished, its index cannot be read, or a shard is lost or damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        raise InputError(
            f"{folder} holds a prediction that is not finished: give the command that predicts it again, which goes on"
        )
    try:
        content = json.loads(index.read_bytes())
        stated = [(str(shard["file"]), str(shard["checksum"])) for shard in content["shards"]]
        if content["format"] != FORMAT or not stated:
            raise ValueError(f"its format is {content['format']} and it names {len(stated)} shards")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{index} cannot be read ({error}): {_ANEW}") from error
    paths = []
    for name, checksum in stated:
        path = folder / name
        if name != path.name or not path.is_file():
            raise InputError(f"Shard {name} of {folder} is lost: {_ANEW}")
        if file_checksum(path) != checksum:
            raise InputError(
                f"Shard {name} of {folder} is damaged, it has another checksum than its index says: {_ANEW}"
            )
        paths.append(path)
    return paths


def file_checksum(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, CHECKSUM).hexdigest()
