"""Read a checkpoint without running what it holds.

A Megatron checkpoint contains pickles: ``common.pt``, ``.metadata``, and objects among the tensors of ``*.distcp``. A
pickle can name any function of any module and have it called. The libraries below read ``.metadata`` with
``pickle.load`` (torch/distributed/checkpoint/filesystem.py) and objects with ``torch.load(weights_only=False)``
(torch/distributed/checkpoint/default_planner.py), and load further files if they find them: ``modelopt_state/`` and
``context/`` (NeMo), array formats named in ``metadata.json`` (Megatron).
"""

import enum
import io
import json
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from bionemo.scale.runs.checksums import check_seal
from bionemo.scale.runs.directory import RunRecord
from bionemo.scale.runs.failures import chain, reason
from bionemo.screens.errors import InputError

_FILES = re.compile(r"\.metadata|common\.pt|metadata\.json|__\d+_\d+\.distcp")
_FORMAT = {"sharded_backend": "torch_dist", "common_backend": "torch"}
_DESCRIPTIONS = {
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.planner",
    "torch.distributed.checkpoint.filesystem",
    "megatron.core.dist_checkpointing.strategies.torch",
}
"""Modules whose dataclasses and enums say where in a checkpoint a tensor is."""
_PLAIN = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib._local", "PosixPath"),
    ("builtins", "set"),
}


_MEND = "restore it from a copy, or train again"


class _Refused(pickle.UnpicklingError):
    """A `_Refused` pickle names something that no checkpoint needs."""


class _DescriptionsOnly(pickle.Unpickler):
    """A `_DescriptionsOnly` builds shapes, offsets and file names, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        if "." not in name:
            if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.layout):
                return getattr(torch, name)
            if module in _DESCRIPTIONS:
                found = super().find_class(module, name)
                own = isinstance(found, type) and found.__module__ == module
                if own and (is_dataclass(found) or issubclass(found, enum.Enum)):
                    return found
        raise _Refused(f"{module}.{name}")


def _member(owner: Any, name: str) -> Any:
    """Return a member of an enumeration, which Python 3.11.0 to 3.11.3 pickle as a call of ``getattr``."""
    if isinstance(owner, enum.EnumType) and name in owner.__members__:
        return owner.__members__[name]
    raise _Refused("builtins.getattr")


def _load(file, **_encoding) -> Any:
    return _DescriptionsOnly(file).load()


def _weights_only(load):
    def load_weights_only(*args, **kwargs):
        try:
            return load(*args, **{**kwargs, "weights_only": True})
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            # torch's own sentences say how to read the file all the same.
            raise (_Refused(named[1]) if named else pickle.UnpicklingError("not a file of tensors")) from None

    return load_weights_only


@contextmanager
def reading(checkpoint: Path, record: RunRecord) -> Iterator[None]:
    """Read a checkpoint as tensors and plain values while this lasts; anything that it wants to run is refused.

    `record` says what its weights are taken to mean. An InputError says that the checkpoint differs from its checksums
    or belongs to another record, names a function to run, holds a file that is no part of it, or is damaged, incomplete
    or of another model.
    """
    _check_files(checkpoint)
    check_seal(checkpoint, _MEND, record)
    before = pickle.load, pickle.loads, torch.load
    pickle.load, pickle.loads = _load, lambda data, **_encoding: _load(io.BytesIO(data))
    torch.load = _weights_only(torch.load)
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    # Every layer below has its own exceptions for a file that is missing, cut or of other shapes, and torch's
    # CheckpointException is not even an Exception.
    except (Exception, CheckpointException) as error:
        refused = [cause for cause in chain(error) if isinstance(cause, _Refused)]
        if refused:
            raise InputError(
                f"checkpoint {checkpoint} asks for {refused[0]} to be run, which no checkpoint needs: somebody has "
                f"changed it, do not use it."
            ) from error
        raise _damaged(checkpoint, reason(error)) from error
    finally:
        pickle.load, pickle.loads, torch.load = before


def _damaged(checkpoint: Path, why: str) -> InputError:
    return InputError(f"checkpoint {checkpoint} is damaged, incomplete or of another model ({why}): {_MEND}.")


def _check_files(checkpoint: Path) -> None:
    """Refuse files that ``pretrain`` does not write: the libraries could read the checkpoint as something else."""
    weights = checkpoint / "weights"
    wrong = [path for path in checkpoint.iterdir() if not (path == weights or path.suffix == ".json")]
    if weights.is_dir():
        wrong += [path for path in weights.iterdir() if not _FILES.fullmatch(path.name)]
    # What begins with a dot is a file system's own, and nothing opens it.
    wrong = [path for path in wrong if not path.name.startswith(".")]
    if wrong:
        raise InputError(f"checkpoint {checkpoint} holds {wrong[0].name}, which is no part of one: move it elsewhere.")
    try:
        stated = json.loads((weights / "metadata.json").read_text())
        formats = {name: stated[name] for name in _FORMAT}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(checkpoint, f"metadata.json: {reason(error)}") from None
    if formats != _FORMAT:
        raise InputError(
            f"checkpoint {checkpoint} is of format {formats['sharded_backend']}, not torch_dist: use the version that "
            f"wrote it."
        )
