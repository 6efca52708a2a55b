"""Write and check checksums of checkpoints and exports: a bit that flips on disk is refused.

A checkpoint's ``checksums.json`` also has the hash of the record that says what its weights mean, so a checkpoint goes
with one ``run.json``. It guards against damage and mistakes. Somebody who forges the checksums as well gets through.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bionemo.scale.runs.directory import RunRecord
from bionemo.scale.runs.sealed_json import read_sealed, write_sealed
from bionemo.screens.digests import file_digest
from bionemo.screens.errors import InputError, brief, name_list

CHECKSUMS = "checksums.json"
_WRITTEN_BY = re.compile(r"__(\d+)_\d+\.distcp")


def seal(folder: Path, record: RunRecord | None = None) -> None:
    """Write the checksums of all files of a checkpoint or an export; all processes of a training call it together.

    The record says what a checkpoint's weights mean. An OSError says that a file cannot be read or written.
    """
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    ours = {name: file_digest(folder / name) for name in names if name != CHECKSUMS and _is_ours(name)}
    files = {name: digest for part in _of_all_ranks(ours) for name, digest in part.items()}
    if _rank() == 0:
        stated = {"files": dict(sorted(files.items()))} | ({"record": record.digest()} if record else {})
        write_sealed(folder / CHECKSUMS, stated)


def check_seal(folder: Path, mend: str, record: RunRecord | None = None) -> None:
    """Recompute the checksums that :func:`seal` wrote; all processes of a training call it together and share files.

    `mend` says what a user can do about a damaged file, and `record` what a checkpoint's weights are taken to mean. An
    InputError says that a file is missing or differs, or that the checkpoint belongs to another record.
    """
    try:
        stated, intact = read_sealed(folder / CHECKSUMS)
        if not intact:
            raise ValueError("it was changed after it was written")
        files: dict[str, str] = dict(stated["files"])
        if record is not None and stated["record"] != record.digest():
            raise InputError(
                f"{folder} does not belong to the run.json beside it, which says something else of its weights: "
                f"restore that file from a copy."
            )
        differing = []
        for name, digest in files.items():
            path = folder / name
            if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                raise ValueError(f"{name} leads elsewhere")
            if _is_ours(name) and (not path.is_file() or file_digest(path) != digest):
                differing.append(name)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / CHECKSUMS} is missing or damaged ({brief(error)}): {mend}.") from None
    differing = sorted(name for part in _of_all_ranks(differing) for name in part)
    if differing:
        raise InputError(f"{name_list(differing)} of {folder} is damaged, its checksum differs: {mend}.")


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _is_ours(name: str) -> bool:
    """Tell whether this process has written a file, or would in a training of as many processes."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    written_by = _WRITTEN_BY.fullmatch(Path(name).name)
    return (int(written_by[1]) if written_by else 0) % ranks == _rank()


def _of_all_ranks(part: Any) -> list[Any]:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [part]
    parts = [part] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts
