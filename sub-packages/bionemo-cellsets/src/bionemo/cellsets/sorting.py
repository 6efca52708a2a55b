"""Rows to their place in the sorted store without holding them all: a distribution sort on disk.

The place of a row is known when it is read: its run's start plus a pseudo-random permutation of its number in the run.
Rows are appended to the file of the bucket their place falls in; each bucket is then read, put in order and handed on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bionemo.cellsets.sampler import mix

BUCKET_VALUES = 2**24
"""Stored values of a bucket, about; it is sorted in memory, at some 20 bytes a value."""
ROW_LOAD = 32
"""What a row takes beside its values, in values."""
PENDING_BYTES = 2**26
"""Rows wait in memory for so many bytes before they go to the buckets' files."""
_ROUNDS = 6


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Some rows as the store keeps them.

    Attributes
    ----------
    values, columns : array [n_values]
        Row by row, in the store's types; columns ascend within a row.
    lengths : int64 array [n]
        Values of each row.
    library_size : float32 array [n]
        Total count over all genes.
    names : array of str [n]
        The cells' names.
    """

    values: np.ndarray
    columns: np.ndarray
    lengths: np.ndarray
    library_size: np.ndarray
    names: np.ndarray


class PlaceInRun:
    """Gives each cell its row in the store, in the order the cells come.

    Parameters
    ----------
    runs : structured array
        The run table.
    seed : int
        Of the permutations inside runs.
    """

    def __init__(self, runs: np.ndarray, seed: int):
        self._runs, self._seed = runs, np.uint64(seed)
        self._seen = np.zeros(len(runs), dtype=np.int64)

    def rows(self, run: np.ndarray) -> np.ndarray:
        """Return the store rows, int64 [n], of the next cells, whose runs are `run`, int64 [n]."""
        order = np.argsort(run, kind="stable")
        which, first, counts = np.unique(run[order], return_index=True, return_counts=True)
        number = np.empty(len(run), dtype=np.int64)
        number[order] = np.arange(len(run)) - np.repeat(first - self._seen[which], counts)
        self._seen[which] += counts
        key = mix(run.astype(np.uint64) + np.uint64(1) + (self._seed << np.uint64(40)))
        return self._runs["start"][run] + permuted(number, self._runs["length"][run], key)


def permuted(number: np.ndarray, length: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return the images of numbers under pseudo-random permutations of [0, length).

    A Feistel network over the smallest even number of bits that hold `length`, walked along its cycle until the image
    is in range (Black and Rogaway, CT-RSA 2002).

    Parameters
    ----------
    number, length : int64 array [n]
        ``0 <= number < length``.
    key : uint64 array [n]
        Equal keys and lengths mean one permutation.

    Returns
    -------
    int64 array [n]
        In [0, length).
    """
    bits = np.maximum(np.ceil(np.log2(np.maximum(length, 2))), 2)
    half = (np.ceil(bits / 2)).astype(np.uint64)
    mask = (np.uint64(1) << half) - np.uint64(1)
    result = number.astype(np.uint64)
    outside = np.arange(len(number))
    while len(outside):
        left, right = result[outside] >> half[outside], result[outside] & mask[outside]
        for step in range(_ROUNDS):
            turn = np.uint64((step + 1) * 0x9E3779B97F4A7C15 % 2**64)
            left, right = right, left ^ (mix((right + turn) ^ key[outside]) & mask[outside])
        result[outside] = (left << half[outside]) | right
        outside = outside[result[outside] >= length[outside].astype(np.uint64)]
    return result.astype(np.int64)


class RowSorter:
    """Takes rows with their places and gives them back in order.

    Parameters
    ----------
    folder : Path
        An empty directory for the buckets.
    run_lengths : int64 array [n_runs]
        Rows of each run.
    run_values : array [n_runs]
        Values of each run, about; with them the buckets come out alike.
    """

    def __init__(self, folder: Path, run_lengths: np.ndarray, run_values: np.ndarray):
        self._folder = folder
        load = np.concatenate([[0], np.cumsum(run_values + ROW_LOAD * run_lengths)])
        rows = np.concatenate([[0], np.cumsum(run_lengths)])
        inner = np.interp(np.arange(BUCKET_VALUES, load[-1], BUCKET_VALUES), load, rows).astype(np.int64)
        # Bucket b holds rows [edges[b], edges[b + 1]).
        self._edges = np.unique(np.concatenate([[0], inner, rows[-1:]]))
        self._pending: list[tuple[np.ndarray, ...]] = []
        self._pending_bytes = 0

    def add(self, places: np.ndarray, rows: StoredRows) -> None:
        """Take rows that belong at `places`, int64 [n]."""
        # Fixed-width bytes: NumPy writes them without pickling, a fourth as large as its str.
        names = np.array([name.encode() for name in rows.names.tolist()])
        chunk = (places, rows.lengths, rows.library_size, names, rows.values, rows.columns)
        self._pending.append(chunk)
        self._pending_bytes += sum(part.nbytes for part in chunk)
        if self._pending_bytes >= PENDING_BYTES:
            self._spill()

    def sorted(self) -> Iterator[StoredRows]:
        """Yield all rows in order, a bucket at a time; each place must have been taken once."""
        self._spill()
        for bucket, (first, end) in enumerate(zip(self._edges[:-1], self._edges[1:], strict=True)):
            path = self._folder / str(bucket)
            yield _in_order(path, int(first), int(end))
            path.unlink()

    def _spill(self) -> None:
        if not self._pending:
            return
        places, lengths, *others = _concatenated(self._pending)
        self._pending, self._pending_bytes = [], 0
        bucket = np.searchsorted(self._edges, places, side="right") - 1
        order = np.argsort(bucket, kind="stable")
        at = _value_order(lengths, order)
        rows = [part[order] for part in (places, lengths, *others[:2])]
        values = [part[at] for part in others[2:]]
        first_row = first_value = 0
        for number, count in enumerate(np.bincount(bucket, minlength=len(self._edges) - 1)):
            if count == 0:
                continue
            end_row = first_row + int(count)
            end_value = first_value + int(rows[1][first_row:end_row].sum())
            with (self._folder / str(number)).open("ab") as file:
                for part in rows:
                    np.lib.format.write_array(file, part[first_row:end_row], allow_pickle=False)
                for part in values:
                    np.lib.format.write_array(file, part[first_value:end_value], allow_pickle=False)
            first_row, first_value = end_row, end_value


def _in_order(path: Path, first: int, end: int) -> StoredRows:
    places, lengths, library_size, names, values, columns = _concatenated(_read_chunks(path))
    order = np.argsort(places)
    assert np.array_equal(places[order], np.arange(first, end)), "every place is taken once"
    at = _value_order(lengths, order)
    return StoredRows(
        values=values[at],
        columns=columns[at],
        lengths=lengths[order],
        library_size=library_size[order],
        names=np.char.decode(names[order], "utf-8").astype(object),
    )


def _value_order(lengths: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return where the values of rows lie, rows taken in `order`."""
    begin = np.cumsum(lengths) - lengths
    taken = lengths[order]
    return np.repeat(begin[order] - (np.cumsum(taken) - taken), taken) + np.arange(int(taken.sum()))


def _concatenated(chunks: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]


def _read_chunks(path: Path) -> list[tuple[np.ndarray, ...]]:
    chunks, size = [], path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            chunks.append(tuple(np.lib.format.read_array(file, allow_pickle=False) for _ in range(6)))
    return chunks
