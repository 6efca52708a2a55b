"""Read everything a first time: check the values, sum up what the choice of genes needs, find cells given twice."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bionemo.cellsets.inputs.cell_input import CellInput, name_hashes
from bionemo.cellsets.inputs.pieces import Piece, Workers
from bionemo.cellsets.preparation.genes import GeneStatistics
from bionemo.cellsets.preparation.run_table import Conditions
from bionemo.cellsets.preparation.workplace import whole_file
from bionemo.cellsets.store.hashing import mix
from bionemo.screens.errors import InputError

SAVE_EVERY = 2.0
"""Seconds between two states on disk."""
HASHED_AT_ONCE = 2**23
"""Cells compared with each other in one pass over the hashes of all cells."""
SHARED_BY_CHANCE = 0.01
"""Share of an input's cells whose names and marks another input may have too: small counts are equal by chance."""
_HASHES = np.dtype([("name", "<u8"), ("cell", "<u8")])
"""Hashes of a cell's name, and of its name and values; the latter is 0 where all values are."""


class Survey:
    """A `Survey` is what the first reading finds; it goes on from what an earlier process left in `folder`.

    The folder keeps the state, and the names of the cells for the second reading. `positions` has for each input the
    genes of its columns, -1 to leave one out, among `n_genes` of all inputs.

    Attributes
    ----------
    statistics : GeneStatistics
        The sums over all pieces that were read.
    run_values : int64 array [n_runs]
        Non-zeros of each run.
    n_read : int
        Pieces that were read.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Sequence[CellInput],
        positions: Sequence[np.ndarray],
        n_genes: int,
        conditions: Conditions,
    ):
        self.folder, self.inputs, self.positions, self.conditions = folder, inputs, positions, conditions
        self.statistics = GeneStatistics(n_genes)
        self.run_values = np.zeros(len(conditions.runs), dtype=np.int64)
        self.n_read = 0
        if self._state.is_file():
            with np.load(self._state) as state:
                self.n_read, self.run_values = int(state["n_read"]), state["run_values"]
                self.statistics.restore(state)

    def read(
        self, pieces: Sequence[Piece], workers: Workers, *, training: np.ndarray, target_sum: float | None
    ) -> Iterator[Piece]:
        """Read the pieces of all inputs that were not read before, and yield each after it was read.

        The choice of genes is made on the runs of `training`, bool [n_runs], with counts normalised to `target_sum`,
        which is None for log1p values. An InputError says that a value is wrong, that cells of one input have one name,
        or that two inputs hold the same cells.
        """

        def read_piece(piece: Piece) -> tuple[GeneStatistics, np.ndarray, np.ndarray]:
            return self._read_piece(piece, training, target_sum)

        saved = time.monotonic()
        # Made whole at once, so that entries may come in any order.
        with self._hashes.open("r+b" if self._hashes.exists() else "w+b") as hashes_file:
            for piece, (statistics, run_values, hashes) in workers.map(read_piece, pieces[self.n_read :]):
                self.statistics.merge(statistics)
                self.run_values += run_values
                hashes_file.seek(_HASHES.itemsize * piece.first_cell)
                hashes_file.write(hashes.data)
                self.n_read = piece.number + 1
                if time.monotonic() - saved > SAVE_EVERY or self.n_read == len(pieces):
                    hashes_file.flush()
                    os.fsync(hashes_file.fileno())
                    self._save()
                    saved = time.monotonic()
                yield piece
        self._refuse_repeated_cells()

    def names(self, piece: Piece) -> np.ndarray:
        """Return the names of a piece's cells, as `CellInput.names` does."""
        file = self._names(piece)
        return np.fromfile(file, dtype=f"S{file.stat().st_size // piece.n_cells}")

    def _read_piece(
        self, piece: Piece, training: np.ndarray, target_sum: float | None
    ) -> tuple[GeneStatistics, np.ndarray, np.ndarray]:
        cells, position = self.inputs[piece.source], self.positions[piece.source]
        statistics = GeneStatistics(len(self.statistics.values))
        run_values, marks = np.zeros_like(self.run_values), np.empty(piece.n_cells)
        runs = self.conditions.runs_of(piece.first_cell, piece.first_cell + piece.n_cells)
        for rows in cells.blocks(piece.start, piece.stop, already_log1p=target_sum is None):
            first = rows.start - piece.start
            inside = runs[first : first + len(rows.pointers) - 1]
            lengths, marks[first : first + len(inside)] = statistics.add(rows, position, training[inside], target_sum)
            np.add.at(run_values, inside, lengths)
        names = cells.names(piece.start, piece.stop)
        with whole_file(self._names(piece)) as file:
            file.write(names.data)
        hashes = np.empty(piece.n_cells, dtype=_HASHES)
        hashes["name"] = name_hashes(names)
        hashes["cell"] = np.where(marks == 0, 0, mix(hashes["name"] ^ mix(marks.view(np.uint64))))
        return statistics, run_values, hashes

    def _refuse_repeated_cells(self) -> None:
        # The hashes of all cells need not fit in memory; a share of them does, and equal names share a hash.
        ends = np.cumsum([cells.n_cells for cells in self.inputs])
        shares = np.uint64(-(-int(ends[-1]) // HASHED_AT_ONCE))
        shared = np.zeros((len(ends), len(ends)), dtype=np.int64)
        for share in range(int(shares)):
            parts = []
            for start in range(0, int(ends[-1]), HASHED_AT_ONCE):
                hashes = np.fromfile(self._hashes, _HASHES, HASHED_AT_ONCE, offset=_HASHES.itemsize * start)
                rows = np.flatnonzero(hashes["name"] % shares == share)
                parts.append((hashes[rows], np.searchsorted(ends, start + rows, side="right")))
            hashes, source = (np.concatenate(part) for part in zip(*parts, strict=True))
            names, by_name = _equal_neighbours(hashes["name"], source)
            within = by_name[0] == by_name[1]
            for place in np.unique(by_name[0][within])[:1]:
                self.inputs[place].refuse_repeated_names(np.unique(names[within & (by_name[0] == place)])[:8])
            cells, by_cell = _equal_neighbours(hashes["cell"], source)
            np.add.at(shared, (by_cell[0][cells > 0], by_cell[1][cells > 0]), 1)
        for one, other in np.argwhere(shared).tolist():
            first, second = self.inputs[one], self.inputs[other]
            if shared[one, other] > SHARED_BY_CHANCE * min(first.n_cells, second.n_cells):
                raise InputError(
                    f"{second.path} holds {shared[one, other]} of the {first.n_cells} cells of {first.path} again, of "
                    "the same names and values: give every cell once"
                )

    def _save(self) -> None:
        with whole_file(self._state) as file:
            np.savez(file, n_read=self.n_read, run_values=self.run_values, **self.statistics.state())

    @property
    def _state(self) -> Path:
        return self.folder / "survey.npz"

    @property
    def _hashes(self) -> Path:
        return self.folder / "hashes"

    def _names(self, piece: Piece) -> Path:
        return self.folder / f"names-{piece.number}"


def _equal_neighbours(keys: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the keys that occur again, once for each time, and the inputs of the two occurrences."""
    order = np.lexsort((source, keys))
    keys, source = keys[order], source[order]
    again = np.flatnonzero(keys[1:] == keys[:-1])
    return keys[again], (source[again], source[again + 1])
