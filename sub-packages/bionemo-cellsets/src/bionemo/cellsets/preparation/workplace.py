"""Make a store in a hidden directory: by one process at a time, going on after a kill, whole or not at all."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from bionemo.cellsets.store.manifest import MANIFEST, foreign_files
from bionemo.screens.errors import InputError, name_list
from bionemo.screens.making import hidden_folder, remove, replace, sweep

_log = logging.getLogger(__name__)


class Workplace:
    """A `Workplace` is where a store is being made.

    The store is written in the directory `store`; `scratch` is for what the work goes on with after a kill.
    """

    def __init__(self, folder: Path):
        self.store, self.scratch = folder / "store", folder / "scratch"

    @property
    def is_complete(self) -> bool:
        """Return whether the store is written and flushed to disk."""
        return (self.store / MANIFEST).is_file()


@contextlib.contextmanager
def workplace(store: Path, plan: Mapping[str, Any], *, overwrite: bool) -> Iterator[Workplace]:
    """Make a store: yield the place to write in, and give what is written there the store's name when that is done.

    What a process leaves unfinished, killed or stopped by an error that may pass, stays in the hidden directory, and
    the next process with an equal plan goes on in it. It is removed where it can be of no use: where the plan differs,
    and where the input itself was found wrong.

    The plan, fit for JSON, says all that decides the store's content. With `overwrite` a store that is there is
    replaced after the new one is complete. An InputError says that `store` is in the way, being made by another
    process, or cannot be written.
    """
    check_target(store, overwrite=overwrite)
    store = store.absolute()
    with _errors_named(store), hidden_folder(store) as folder:
        check_target(store, overwrite=overwrite)  # an old one may have been put back
        place = _prepared(folder, dict(plan))
        try:
            yield place
        except InputError as error:
            # One with a cause may come from a disk or a mount that is back the next time.
            if error.__cause__ is None and (error.__context__ is None or error.__suppress_context__):
                remove(folder)
            raise
        check_target(store, overwrite=overwrite)
        replace(store, place.store, folder)
        with contextlib.suppress(OSError):  # some network file systems cannot flush a directory
            flush(store.parent)
        remove(folder)


def check_target(store: Path, *, overwrite: bool) -> None:
    """Refuse to write over anything but a store, and over a store unless told to; an InputError names what is there."""
    if not os.path.lexists(store):
        return
    if not overwrite:
        sweep(store, lambda folder: any((folder / name).exists() for name in ("store", "new")))
        raise InputError(f"{store} exists: remove it, choose another directory, or say --overwrite")
    if store.is_symlink():
        raise InputError(f"{store} is a link, so it is not overwritten: name the directory itself")
    foreign = foreign_files(store)
    if foreign is None:
        raise InputError(f"{store} is not a cell store, so it is not overwritten: choose another directory")
    if foreign:
        raise InputError(
            f"{store} holds more than a cell store ({name_list(foreign)}), so it is not overwritten: "
            "move that away, or choose another directory"
        )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write, which gets its name when all of it is on disk."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)


def flush(path: Path) -> None:
    """Wait until a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _errors_named(store: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The store {store} cannot be written ({error.strerror or error}): free space there or "
            "choose another directory (the same command goes on from what was done)"
        ) from error


def _prepared(folder: Path, plan: dict[str, Any]) -> Workplace:
    file, place = folder / "plan.json", Workplace(folder)
    plan = json.loads(json.dumps(plan))
    left = None
    if file.exists():  # it comes into being whole, before the work that it is the plan of
        try:
            left = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(
                f"{file} is damaged, so what unfinished work {folder} holds is not known: remove that directory"
            ) from error
    if left == plan and (place.is_complete or place.scratch.is_dir()):
        _log.info("Going on with the unfinished store in %s", folder)
    else:
        if left is not None:
            _log.info("Removing what another prepare left unfinished in %s: its inputs or arguments differ", folder)
        file.unlink(missing_ok=True)
        for path in (place.store, place.scratch):
            shutil.rmtree(path, ignore_errors=True)
        place.scratch.mkdir()
        with whole_file(file) as writing:
            writing.write(json.dumps(plan, indent=1).encode())
    if not place.is_complete:
        shutil.rmtree(place.store, ignore_errors=True)
        place.store.mkdir()
    return place
