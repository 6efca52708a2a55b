"""Give HDF5 a file to write to, on a disk that may fill up.

HDF5 cannot close a file whose writes fail: h5py complains on stderr of every object left open, and the process crashes
at exit. So HDF5 is told that all went well, and the error is raised outside of it.
"""

from io import FileIO
from typing import Any


class ForgivingFile(FileIO):
    """A `ForgivingFile` hides that a write failed; `check` raises what the first of them met.

    Use as ``h5py.File(file, "w")``, and call `check` again once that is closed.

    Attributes
    ----------
    failure : OSError or None
        The first error; nothing is written after it.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of a buffer, unless a write failed before, and return its size in bytes."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.failure is None:
                rest = rest[super().write(rest) :]  # a write may be cut short, which HDF5 does not look at
        except OSError as error:
            self.failure = error
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
