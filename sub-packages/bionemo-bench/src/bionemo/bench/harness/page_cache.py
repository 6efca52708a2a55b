"""Fill, empty and measure the kernel's cache of files, file by file."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_READ_BYTES = 1 << 24


def files_of(path: Path) -> list[Path]:
    """Return a file, or all files below a folder."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def size_of(path: Path) -> int:
    """Return the bytes of all files of a path."""
    return sum(file.stat().st_size for file in files_of(path))


def warm(paths: Iterable[Path]) -> None:
    """Read every byte of the paths."""
    for path in paths:
        for file in files_of(path):
            with file.open("rb", buffering=0) as reading:
                while reading.read(_READ_BYTES):
                    pass


def drop(paths: Iterable[Path]) -> None:
    """Ask the kernel to forget the pages of the paths; it keeps those that some process has mapped."""
    for path in paths:
        for file in files_of(path):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # dirty pages are not dropped
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def resident_share(paths: Iterable[Path]) -> float:
    """Return which share of the paths' pages is in memory, by mincore(2)."""
    resident = pages = 0
    for path in paths:
        for file in files_of(path):
            length = file.stat().st_size
            if length == 0:
                continue
            flags = np.zeros(-(-length // mmap.PAGESIZE), dtype=np.uint8)
            with file.open("rb") as reading:
                mapped = np.memmap(reading, dtype=np.uint8, mode="r", shape=(length,))
                failed = _libc.mincore(
                    ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(length), ctypes.c_void_p(flags.ctypes.data)
                )
                if failed:
                    raise OSError(ctypes.get_errno(), "mincore failed", str(file))
                del mapped
            resident += int((flags & 1).sum())
            pages += len(flags)
    return resident / pages if pages else 1.0
