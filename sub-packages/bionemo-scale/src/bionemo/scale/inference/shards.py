"""Keep a prediction on disk in shards: each is whole or absent, and a command that was ended goes on with the others.

Several ranks may fill one folder; they need no other contact than its files:

=============================  =========================================================================================
``plan.json``                  says what is predicted, and is written first. Another plan is another prediction.
``part-00000-CHECKSUM.h5ad``   is a shard, whole. One whose bytes have another checksum is removed, and made again.
``index.json``                 lists all shards, and is written last: the prediction is finished.
``NAME.PID.partial``           is what a process was writing. After a kill the next command removes it.
``.lock``                      is locked by all ranks together, and by one alone while it decides what to do with what
                               an earlier command left.
``.finishing``                 is locked by the rank that writes the index, or makes one file of the shards.
=============================  =========================================================================================

Where one file is asked for, the folder is ``OUT.shards``. It goes once that file is whole.
"""

import errno
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import anndata as ad
import h5py
from anndata.experimental import concat_on_disk
from anndata.io import write_elem

from bionemo.screens.errors import InputError
from bionemo.screens.shards import CHECKSUM, FORMAT, INDEX, PLAN, checked_shards, file_checksum

LOCK, FINISHING = ".lock", ".finishing"


class ShardFolder:
    """A `ShardFolder` is where shards of one prediction are written; the plan, fit for JSON, tells it from others."""

    def __init__(self, path: Path, plan: Mapping[str, Any], shards: int):
        self.path, self._plan, self._shards = path, {"format": FORMAT, **plan, "shards": shards}, shards

    @contextmanager
    def held(
        self, *, mend: str | None, overwrite: bool, finished: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Hold the folder, together with other ranks of the same prediction.

        The first rank decides alone what becomes of what is there: it refuses another prediction, goes on with this
        one, or with `overwrite` begins anew. The others join it. `mend` is what a user can do where another prediction
        is there; None if such leftovers may be removed. `finished` tells whether other ranks of this command have
        done all of it before this one came. An InputError says that another prediction is there, or is being written
        by another process, or that the folder cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / LOCK).open("a")
        with lock:
            try:
                if _alone(lock):
                    if not finished():
                        with writing(self.path):
                            self._take(mend, overwrite=overwrite)
                    with suppress(OSError):
                        fcntl.flock(lock, fcntl.LOCK_SH)
                elif self._stated() != self._plan:
                    raise InputError(f"{self.path} is being written by another process, which predicts something else.")
                yield
            finally:
                self._leave(lock)

    def _leave(self, lock: IO[str]) -> None:
        """Remove the folder where nothing came of it, and leave no lock in one that is not a prediction's."""
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there, stated = {path.name for path in self.path.iterdir()}, self._stated()
            if there <= {LOCK, FINISHING} or (there <= {LOCK, FINISHING, PLAN} and stated == self._plan):
                remove(self.path.iterdir())
                self.path.rmdir()
            elif stated is None:
                (self.path / LOCK).unlink()

    def _take(self, mend: str | None, *, overwrite: bool) -> None:
        """Bring the folder to the state in which this prediction begins or goes on."""
        cut = {path.name for path in self.path.glob(f"{PLAN}.*.partial")}  # by a kill, before anything else was there
        there, stated = {path.name for path in self.path.iterdir()} - {LOCK, *cut}, self._stated()
        if there and stated is None:
            raise InputError(f"{self.path} holds something else than a prediction: name another folder.")
        if stated == self._plan and not (overwrite and INDEX in there):
            if INDEX in there and self._is_whole():
                raise InputError(f"{self.path} exists: name another, or replace it with --overwrite.")
            (self.path / INDEX).unlink(missing_ok=True)
            remove(self.path.glob("*.partial"))
            return
        if there and mend is not None and not overwrite:
            raise InputError(f"{self.path} holds shards of another prediction: {mend}.")
        remove(path for path in self.path.iterdir() if path.name != LOCK)
        write_whole(self.path / PLAN, json.dumps(self._plan, indent=1).encode())

    def _is_whole(self) -> bool:
        try:
            return bool(checked_shards(self.path))
        except InputError:
            return False

    def _stated(self) -> dict[str, Any] | None:
        try:
            stated = json.loads((self.path / PLAN).read_text())
        except (OSError, ValueError, RecursionError):
            return None
        return stated if isinstance(stated, dict) and "format" in stated else None

    def absent(self, numbers: Sequence[int]) -> list[int]:
        """Return which of the shards are absent; what is no file or has another checksum is removed, and absent."""
        there = self._files()
        with writing(self.path):
            for number in numbers:
                path = there.get(number)
                if path is None or (path.is_file() and file_checksum(path) == _stated_checksum(path)):
                    continue
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                del there[number]
        return [number for number in numbers if number not in there]

    def write(self, number: int, cells: ad.AnnData) -> None:
        """Write a shard, whole or not at all; an InputError where the place is full, or cannot be written to."""
        image = _h5ad(cells)
        write_whole(self.path / f"part-{number:05d}-{CHECKSUM(image).hexdigest()}.h5ad", image)

    def finish(self, index: Mapping[str, Any], cells: Sequence[int], one_file: Path | None) -> None:
        """Write the index, or make one file of the shards and remove them, if all of them are there.

        `index` is what the index says beside the shards, `cells` how many each shard has.
        """
        try:
            lock = (self.path / FINISHING).open("a")
        except FileNotFoundError:
            return  # another rank has done it
        with lock:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.path / PLAN).exists():  # another process has made one file of the shards, and removed them
                remove(self.path.glob("part-*"))
                return
            if (self.path / INDEX).exists():
                return
            files = self._files()
            if len(files) < self._shards:
                return
            paths = [files[number] for number in range(self._shards)]
            if one_file is not None:
                merge(paths, one_file)
                remove_merged(self.path, one_file)
                return
            stated = [
                {"file": path.name, "cells": n, "checksum": _stated_checksum(path)}
                for path, n in zip(paths, cells, strict=True)
            ]
            content = {"format": FORMAT, **index, "cells": sum(cells), "shards": stated}
            write_whole(self.path / INDEX, json.dumps(content, indent=1).encode())

    def _files(self) -> dict[int, Path]:
        return {int(path.name.split("-")[1]): path for path in self.path.glob("part-*-*.h5ad")}


def merge(shards: Sequence[Path], out: Path) -> None:
    """Make one h5ad file of several, block by block; a file that was there stays until the new one is whole.

    An InputError says that the place is full, or cannot be written to.
    """
    if len(shards) == 1:
        with writing(out):
            os.replace(shards[0], out)
        return
    partial = out.with_name(out.name + ".partial")
    with writing(out):
        try:
            with _Unfailing(partial) as target:
                with h5py.File(target, "w") as file:
                    concat_on_disk(list(map(str, shards)), file, merge="same")
                    with h5py.File(shards[0]) as first:
                        file.pop("uns", None)
                        first.copy("uns", file)
                target.raise_failure()
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)


class _Unfailing(io.RawIOBase):
    """A file that HDF5 writes to, which keeps the first failure to itself.

    HDF5 keeps what it could not write, tries again while the process ends, and crashes there. So it is told that all
    went well; `raise_failure` says how it was.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._file, self._failure = path.open("w+b", buffering=0), None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        with self._kept():
            done = 0
            while done < len(view):
                done += self._file.write(view[done:])
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        with self._kept():
            self._file.truncate(size)
        return size or 0

    def flush(self) -> None:
        pass

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def raise_failure(self) -> None:
        """Bring the file to the disk; raise the first OSError that was kept."""
        with self._kept():
            os.fsync(self._file.fileno())
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self._file.close()
        super().close()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        if self._failure is None:
            try:
                yield
            except OSError as error:
                self._failure = error
        else:
            with suppress(OSError):
                yield


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn an OSError into a sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{out} could not be written ({error.strerror or error}): free the place, and give the same command again, "
            f"which goes on; or name another place."
        ) from error


def write_whole(out: Path, content: bytes) -> None:
    """Write all of a file or nothing; one that was there stays until the new one is whole.

    An InputError says that the place is full, or cannot be written to.
    """
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    with writing(out):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)


def shards_of(file: Path) -> Path:
    """Return the folder of the shards that one file is made of."""
    return file.with_name(file.name + ".shards")


def remove_merged(folder: Path, file: Path) -> None:
    """Remove the shards that a file was made of, which is younger than their plan; what a kill has left of them too."""
    with suppress(OSError):
        plan = folder / PLAN
        if plan.exists() and plan.stat().st_mtime_ns <= file.stat().st_mtime_ns:
            remove(folder.iterdir())
        folder.rmdir()  # unless something is in it


def remove(paths: Iterator[Path]) -> None:
    """Remove files; the plan last, so that what is left after a kill is known for what it is."""
    for path in sorted(paths, key=lambda path: path.name == PLAN):
        path.unlink(missing_ok=True)


def _h5ad(cells: ad.AnnData) -> bytes:
    """Return the bytes of an h5ad file. HDF5 itself writes to memory alone, where nothing fails half-way."""
    with h5py.File("shard", "w", driver="core", backing_store=False, block_size=2**24) as file:
        write_elem(file, "/", cells)
        file.flush()
        return file.id.get_file_image()


def _stated_checksum(path: Path) -> str:
    return path.stem.split("-")[2]


def _alone(lock: IO[str]) -> bool:
    """Lock the folder against others; if ranks of a prediction are there, join them and return False."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return True  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_SH)
        return False
    return True
