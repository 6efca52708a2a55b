"""Make a directory whole or not at all: by one process at a time, in a hidden directory beside it.

What is being made as ``NAME`` lies in ``.NAME.partial`` until it is done. What a killed process left there, the next
one with the same target finds, and removes where it is of no use to it.
"""

import contextlib
import ctypes
import errno
import glob
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from bionemo.screens.errors import InputError
from bionemo.screens.locks import locked

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h, linux/fs.h
_NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_NEW, _REPLACED = "new", "replaced"


@contextlib.contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Yield a directory to write in, which gets the name of `target` when that is done, and is removed on an error.

    Errors are those of `hidden_folder`, and an OSError where it cannot be written.
    """
    with scratch_folder(target) as place:
        yield place
        place.rename(target)


@contextlib.contextmanager
def file_made_whole(target: Path) -> Iterator[Path]:
    """Yield a file to write, which gets the name of `target` when that is done, and is removed on an error.

    Errors are those of `hidden_folder`, and an OSError where it cannot be written.
    """
    with scratch_folder(target) as place:
        yield place / target.name
        os.replace(place / target.name, target)


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside `target`, for this process alone, and remove it in the end.

    Errors are those of `hidden_folder`.
    """
    with hidden_folder(target) as folder:
        try:
            place = folder / _NEW
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            yield place
        finally:
            remove(folder)


@contextlib.contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """Yield ``.NAME.partial`` beside `target`, for this process alone, with what an earlier one left in it.

    Raises
    ------
    InputError
        Another process has it.
    OSError
        It cannot be made.
    """
    target = target.absolute()
    folder = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock_of(folder, target):
        if not os.path.lexists(target) and (folder / _REPLACED).exists():  # killed between two renames
            (folder / _REPLACED).rename(target)
        away = re.compile(rf"{re.escape(folder.name)}\.[0-9a-f]{{8}}")
        for left in target.parent.iterdir():
            if away.fullmatch(left.name):  # killed while it was removed
                shutil.rmtree(left, ignore_errors=True)
        yield folder


def _lock_of(folder: Path, target: Path) -> IO[Any]:
    """Make a directory and return its locked file; closing that, or the end of the process, frees the lock."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            file = locked(folder / "lock")
        except FileNotFoundError:  # another process has just finished and removed the directory
            continue
        if file is None:
            raise InputError(f"Another process is writing {target}: wait until it is done, or choose another directory")
        return file


def sweep(target: Path, is_of_use: Callable[[Path], bool] = lambda _: False) -> None:
    """Remove what a killed process left hidden beside `target`, unless it is of use to the next one, or is in use."""
    if any(target.absolute().parent.glob(f".{glob.escape(target.name)}.partial*")):
        with contextlib.suppress(InputError, OSError), hidden_folder(target) as folder:
            if not is_of_use(folder):
                remove(folder)


def remove(folder: Path) -> None:
    """Remove a directory of :func:`hidden_folder`; it is renamed first, so that nobody finds it half removed."""
    away = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)


def replace(target: Path, new: Path, folder: Path) -> None:
    """Give `new` the name of `target`, and put what was there into a directory of :func:`hidden_folder`.

    At every moment one of the two is at the name, where the file system can exchange names. Where it cannot, the next
    :func:`hidden_folder` puts the old one back after a kill.

    Raises
    ------
    OSError
        They cannot be renamed; what was there is there.
    """
    staged, replaced = folder / _NEW, folder / _REPLACED
    shutil.rmtree(staged, ignore_errors=True)
    # Under another name than before, so that the old one is not taken for the new one after a kill.
    new.rename(staged)
    try:
        if not os.path.lexists(target):
            staged.rename(target)
        elif not _exchanged(staged, target):
            shutil.rmtree(replaced, ignore_errors=True)
            target.rename(replaced)
            try:
                staged.rename(target)
            except BaseException:
                replaced.rename(target)
                raise
    except BaseException:
        staged.rename(new)
        raise


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one go; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_HERE:
        return False
    raise OSError(code, os.strerror(code), str(other))
