"""Give HDF5 a file to write to, on a disk that may fill up.

HDF5 cannot close a file whose writes fail: h5py complains on stderr of every object left open, and the process crashes
at exit. So HDF5 is told that all went well, and the error is raised outside of it. HDF5 also reads again what it wrote,
and crashes on anything else; so what the disk did not take is kept in memory.
"""

from io import FileIO
from os import PathLike
from typing import Any


class ForgivingFile(FileIO):
    """A `ForgivingFile` hides that a write failed; `check` raises what the first of them met.

    Use as ``h5py.File(file, "w")``, and call `check` again once that is closed.
    """

    failure: OSError | None = None
    """The first error; nothing is written after it."""

    def __init__(self, file: str | PathLike[str], mode: str):
        super().__init__(file, mode)
        self._kept: list[tuple[int, bytes]] = []

    def write(self, data: Any) -> int:
        """Write all of a buffer, unless a write failed before, and return its size in bytes."""
        rest = memoryview(data).cast("B")
        start, size = self.tell(), len(rest)
        try:
            while rest and self.failure is None:
                rest = rest[super().write(rest) :]  # a write may be cut short, which HDF5 does not look at
        except OSError as error:
            self.failure = error
        if rest:
            self._kept.append((start + size - len(rest), bytes(rest)))
            self.seek(start + size)
        return size

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer, those too that the disk did not take, and return how many there are."""
        start, view = self.tell(), memoryview(buffer).cast("B")
        size = super().readinto(view) or 0
        view[size:] = bytes(len(view) - size)
        for offset, data in self._kept:
            low, high = max(offset, start), min(offset + len(data), start + len(view))
            if low < high:
                view[low - start : high - start] = data[low - offset : high - offset]
                size = max(size, high - start)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Change the size, or keep the error."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def check(self) -> None:
        """Raise the error of the first write that failed, if one did."""
        if self.failure is not None:
            raise self.failure
