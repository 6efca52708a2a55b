"""Bring rows to their place in the sorted store without holding them all: an external sort.

The place of a row is known when it is read: its run's start plus a pseudo-random permutation of its number in the run.
Each piece of the input goes to a file of its own, sorted by place and cut by the buckets that places fall in. A bucket
is then gathered from all of these files and put in order.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bionemo.cellsets.inputs import csr_kernels
from bionemo.cellsets.preparation.workplace import flush
from bionemo.cellsets.store.hashing import mix

BUCKET_BYTES = 48 * 2**20
"""Size of a bucket, about; it is in memory twice while it is put in order."""
_ROW_BYTES = 48
"""What a row takes beside its values, about."""
_ROUNDS = 6


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """A `StoredRows` holds n rows as the store keeps them."""

    values: np.ndarray  # [n_values], row by row, of the store's type
    columns: np.ndarray  # [n_values], ascending within a row, of the store's type
    lengths: np.ndarray  # integer [n], values of each row
    library_size: np.ndarray  # float32 [n], total count over all genes
    names: np.ndarray  # bytes [n], the cells' names


class PlaceInRun:
    """A `PlaceInRun` gives each cell its row in the store, in the order the cells come."""

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
    """Return the images, int64 [n], of numbers under pseudo-random permutations of [0, length).

    A Feistel network over the smallest even number of bits that hold `length`, walked along its cycle until the image
    is in range (Black and Rogaway, CT-RSA 2002), is a permutation for each pair of a length and a key, uint64 [n].
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


def bucket_edges(run_lengths: np.ndarray, run_values: np.ndarray, value_bytes: int) -> np.ndarray:
    """Cut the store's rows into buckets of about `BUCKET_BYTES`, given rows and values of each run, [n_runs].

    Bucket b holds rows [edges[b], edges[b + 1]) of what is returned, int64 [n_buckets + 1]. A value and its column take
    `value_bytes`.
    """
    load = np.concatenate([[0], np.cumsum(run_values * value_bytes + _ROW_BYTES * run_lengths)])
    rows = np.concatenate([[0], np.cumsum(run_lengths)])
    inner = np.interp(np.arange(BUCKET_BYTES, load[-1], BUCKET_BYTES), load, rows).astype(np.int64)
    return np.unique(np.concatenate([[0], inner, rows[-1:]]))


class SortedPiece:
    """A `SortedPiece` is a file of rows sorted by place, written whole or not at all, then read bucket by bucket.

    The file holds two arrays, how many rows and values lie before each bucket and an empty one of the type of a row's
    entry; then for each bucket the entries of its rows, their values, and their columns.
    """

    def __init__(self, path: Path, value_type: np.dtype, column_type: np.dtype):
        self._path, self._types = path, (np.dtype(value_type), np.dtype(column_type))
        with path.open("rb") as file:
            before = np.lib.format.read_array(file, allow_pickle=False)
            self._entry = np.lib.format.read_array(file, allow_pickle=False).dtype
            self._begin = file.tell()
        self._rows, self._values = before.astype(np.int32)

    @staticmethod
    def write(path: Path, edges: np.ndarray, places: np.ndarray, blocks: list[StoredRows]) -> None:
        """Sort the rows of all blocks by their places in the store, int64 [n], and write them, cut at `edges`.

        `finish` is what makes the file whole.
        """
        order = np.argsort(places)
        lengths = np.concatenate([block.lengths for block in blocks])
        names = np.concatenate([block.names for block in blocks])
        entry = np.dtype([("place", "<i8"), ("length", "<i4"), ("library_size", "<f4"), ("name", names.dtype)])
        entries = np.empty(len(order), dtype=entry)
        entries["place"], entries["length"], entries["name"] = places[order], lengths[order], names[order]
        entries["library_size"] = np.concatenate([block.library_size for block in blocks])[order]
        values_before = np.concatenate([[0], np.cumsum(lengths[order], dtype=np.int64)])
        target = np.empty(len(order), dtype=np.int64)
        target[order] = values_before[:-1]
        types = (blocks[0].values.dtype, blocks[0].columns.dtype)
        moved = tuple(np.empty(values_before[-1], dtype=dtype) for dtype in types)
        first = 0
        for block in blocks:
            begin = np.cumsum(block.lengths, dtype=np.int64) - block.lengths
            inside = target[first : first + len(begin)]
            csr_kernels.move_rows(begin, inside, block.lengths, block.values, block.columns, *moved)
            first += len(begin)
        rows_before = np.searchsorted(entries["place"], edges)
        with path.with_suffix(".unfinished").open("wb", buffering=2**20) as file:
            np.lib.format.write_array(file, np.stack([rows_before, values_before[rows_before]]))
            np.lib.format.write_array(file, entries[:0])
            for begin, end in itertools.pairwise(rows_before):
                inside = slice(values_before[begin], values_before[end])
                for part in (entries[begin:end], *(array[inside] for array in moved)):
                    file.write(part.data)

    @staticmethod
    def finish(path: Path) -> None:
        """Wait until what was written is on disk, and give it its name."""
        unfinished = path.with_suffix(".unfinished")
        flush(unfinished)
        unfinished.rename(path)

    def read(self, bucket: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the entries, values and columns of a bucket's rows."""
        rows, values = (before[bucket : bucket + 2].astype(np.int64) for before in (self._rows, self._values))
        row_bytes, value_bytes = self._entry.itemsize, sum(dtype.itemsize for dtype in self._types)
        with self._path.open("rb", buffering=0) as file:
            file.seek(self._begin + int(rows[0]) * row_bytes + int(values[0]) * value_bytes)
            entries = np.fromfile(file, self._entry, rows[1] - rows[0])
            data, columns = (np.fromfile(file, dtype, values[1] - values[0]) for dtype in self._types)
        if (len(entries), len(columns)) != (rows[1] - rows[0], values[1] - values[0]):
            raise OSError("a file of sorted rows ends early")
        return entries, data, columns


def gathered(pieces: list[SortedPiece], bucket: int, first: int, end: int) -> StoredRows:
    """Return the rows [first, end) of the store, which are those of a bucket, in order."""
    read = [piece.read(bucket) for piece in pieces]
    lengths = np.full(end - first, -1, dtype=np.int64)
    library_size = np.empty(end - first, dtype=np.float32)
    names = np.empty(end - first, dtype=f"S{max(entries.dtype['name'].itemsize for entries, _, _ in read)}")
    for entries, _, _ in read:
        at = entries["place"] - first
        lengths[at], library_size[at], names[at] = entries["length"], entries["library_size"], entries["name"]
    assert sum(len(entries) for entries, _, _ in read) == len(lengths), "as many rows as places"
    assert (lengths >= 0).all(), "every place is taken"
    begin = np.cumsum(lengths) - lengths
    _, values, columns = read[0]
    out = tuple(np.empty(int(lengths.sum()), dtype=array.dtype) for array in (values, columns))
    for entries, values, columns in read:
        of_rows = np.ascontiguousarray(entries["length"])
        source = np.cumsum(of_rows, dtype=np.int64) - of_rows
        csr_kernels.move_rows(source, begin[entries["place"] - first], of_rows, values, columns, *out)
    return StoredRows(values=out[0], columns=out[1], lengths=lengths, library_size=library_size, names=names)
