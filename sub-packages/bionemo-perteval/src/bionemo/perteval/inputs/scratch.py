"""Keep the values of cells out of memory, in files that end with the process."""

import os
import tempfile
from typing import Any

import numpy as np
import scipy.sparse as sp

from bionemo.screens.errors import InputError


class ScratchCells:
    """`ScratchCells` hold cells, log1p float32 [N, G], in scratch files, and give the rows that are asked for.

    Cells are appended in blocks. In each block the cells of one group are put side by side, so that a group is read in
    a few pieces, in whatever order the cells come.

    Parameters
    ----------
    groups
        Number of the group of each cell, ascending in the order in which groups will be asked for [N].
    genes
        G.
    """

    def __init__(self, groups: np.ndarray, genes: int):
        self.shape = groups.size, genes
        self._groups, self._done = groups, 0
        self._starts, self._lengths = np.zeros(groups.size, dtype=np.int64), np.zeros(groups.size, dtype=np.int32)
        self._values = _ScratchArray(np.dtype(np.float32))
        self._columns = _ScratchArray(np.dtype(np.uint16 if genes <= 2**16 else np.uint32))

    def append(self, block: sp.csr_matrix) -> None:
        """Add the next cells, log1p [n, G].

        Raises
        ------
        InputError
            The folder of scratch files is full.
        """
        rows = slice(self._done, self._done + block.indptr.size - 1)
        order = np.argsort(self._groups[rows], kind="stable")
        block = block[order]  # pyright: ignore[reportIndexIssue]
        self._starts[rows][order] = self._values.size + block.indptr[:-1]
        self._lengths[rows][order] = np.diff(block.indptr)
        self._values.append(block.data)
        self._columns.append(block.indices)
        self._done = rows.stop

    @property
    def rows(self) -> int:
        """Number of cells that were appended."""
        return self._done

    def __getitem__(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return some cells, log1p [n, G]; a row may be asked for more than once."""
        starts, lengths = self._starts[rows], self._lengths[rows]
        ends = starts + lengths
        breaks = np.flatnonzero(starts[1:] != ends[:-1])
        first, last = starts[np.append(0, breaks + 1)], ends[np.append(breaks, -1)]
        pieces = [slice(start, end) for start, end in zip(first.tolist(), last.tolist(), strict=True)]
        bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        kind = np.int32 if bounds[-1] <= np.iinfo(np.int32).max else np.int64
        values, columns = self._values.read(pieces), self._columns.read(pieces).astype(kind)
        return sp.csr_matrix((values, columns, bounds.astype(kind)), shape=(starts.size, self.shape[1]))


class _ScratchArray:
    """A `_ScratchArray` is an array in a file without a name, which is appended to and then read in pieces.

    A process that it is sent to reads the same file, as long as the process that made it is there.
    """

    def __init__(self, kind: np.dtype):
        self.size, self._kind = 0, kind
        self._file: Any = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def __getstate__(self) -> tuple[int, np.dtype, str]:
        return self.size, self._kind, f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def __setstate__(self, state: tuple[int, np.dtype, str]) -> None:
        self.size, self._kind, place = state
        self._file = open(place, "rb", buffering=0)  # noqa: SIM115

    def append(self, values: np.ndarray) -> None:
        content = np.ascontiguousarray(values, dtype=self._kind).data.cast("B")
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            raise InputError(
                f"The folder of scratch files {tempfile.gettempdir()} cannot be written ({error.strerror or error}): "
                "free space there, or name another folder in the environment variable TMPDIR"
            ) from error
        self.size += values.size

    def read(self, pieces: list[slice]) -> np.ndarray:
        """Return pieces, one after another.

        They are copied: pages of a file that is mapped count as memory of the process, and many more of them come than
        are asked for.
        """
        values, at = np.empty(sum(piece.stop - piece.start for piece in pieces), dtype=self._kind), 0
        for piece in pieces:
            rest, place = values[at : at + piece.stop - piece.start].data.cast("B"), piece.start * self._kind.itemsize
            at += piece.stop - piece.start
            while rest:
                done = os.preadv(self._file.fileno(), [rest], place)
                if not done:
                    raise OSError("a scratch file ends early")
                rest, place = rest[done:], place + done
        return values
