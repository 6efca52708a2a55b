"""Cut all cells of some inputs in pieces for several threads; results come in the order of the pieces."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from bionemo.cellsets.inputs.cell_input import CellInput
from bionemo.screens.errors import InputError

PIECE_VALUES = 2**23
"""Values of a piece, at most, if it has more than one row; a thread holds up to 16 bytes of each."""
MAX_DEFAULT_THREADS = 8
"""More threads are used on request only: each takes memory."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A `Piece` is some consecutive rows of one input."""

    number: int  # its place among the pieces of all inputs
    source: int  # number of the input
    start: int  # the first of its rows in that input
    stop: int  # the one after the last
    first_cell: int  # its first row, counted through all inputs

    @property
    def n_cells(self) -> int:
        """Return how many rows it has."""
        return self.stop - self.start


def cut_in_pieces(inputs: Sequence[CellInput]) -> list[Piece]:
    """Cut all inputs, in the same way for any number of threads."""
    pieces: list[Piece] = []
    before = 0
    for source, cells in enumerate(inputs):
        for start, stop in cells.pieces(PIECE_VALUES):
            pieces.append(
                Piece(number=len(pieces), source=source, start=start, stop=stop, first_cell=before + start)
            )  # fmt: skip
        before += cells.n_cells
    return pieces


class Workers:
    """A `Workers` is a number of threads.

    By default there are as many as the processor cores that this process may use, at most `MAX_DEFAULT_THREADS`.
    """

    def __init__(self, threads: int | None):
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}: it must be at least 1")
        self.threads = threads or min(len(os.sched_getaffinity(0)), MAX_DEFAULT_THREADS)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        """Yield (item, result) in order; an error ends it, and of several the first item's is raised."""
        waiting: deque[tuple[Item, Future[Any]]] = deque()
        with ThreadPoolExecutor(self.threads) as pool, contextlib.ExitStack() as at_end:
            at_end.callback(pool.shutdown, cancel_futures=True)
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > self.threads:
                    item, future = waiting.popleft()
                    yield item, future.result()
            while waiting:
                item, future = waiting.popleft()
                yield item, future.result()
