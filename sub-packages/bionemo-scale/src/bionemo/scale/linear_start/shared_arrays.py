"""Keep large arrays in files: one process works them out, and all processes of a run map the same memory."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bionemo.screens.errors import InputError
from bionemo.screens.locks import locked

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[tuple[int, ...], Any]]
"""Name -> shape and dtype."""


def shared_arrays(folder: Path | None, key: str, shapes: Shapes, fill: Callable[[Arrays], None]) -> Arrays:
    """Return arrays, by name, that a function fills with values in the place of zeros.

    Where a folder is given they are mapped from files of it, and cannot be written. The first process that asks fills
    them, while others wait for it. The key says in a few letters what the values follow from, and files with another
    key are replaced. An InputError says that the folder cannot be written, or that its disk is full.
    """
    if folder is None:
        arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
        fill(arrays)
        return arrays
    files = {name: folder / f"{name}-{key}.npy" for name in shapes}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while (lock := locked(folder / "lock")) is None:
            time.sleep(0.1)
        with lock:
            if not all(file.exists() for file in files.values()):
                _write(files, shapes, fill)
        return {name: np.load(file, mmap_mode="r") for name, file in files.items()}
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}): free space there, or give another --out."
        ) from error


def _write(files: Mapping[str, Path], shapes: Shapes, fill: Callable[[Arrays], None]) -> None:
    partial = {name: file.with_suffix(f".{os.getpid()}.partial") for name, file in files.items()}
    for name, file in files.items():
        for old in file.parent.glob(f"{name}-*"):
            old.unlink()
    try:
        arrays: Arrays = {}
        for name, (shape, dtype) in shapes.items():
            arrays[name] = np.lib.format.open_memmap(partial[name], "w+", dtype, shape)
            with partial[name].open("r+b") as file:
                # A full disk is told now; later, a write into the mapped memory would end the process.
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        fill(arrays)
        for array in arrays.values():
            array.flush()  # pyright: ignore[reportAttributeAccessIssue]
        for name, file in files.items():
            os.replace(partial[name], file)
    finally:
        for path in partial.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
