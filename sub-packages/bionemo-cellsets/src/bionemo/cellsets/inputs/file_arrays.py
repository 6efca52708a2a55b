"""Arrays in files, read in slices by many threads at once.

HDF5 reads and decompresses under one lock of the whole process. Where an array lies in the file as it is, or in chunks
packed by gzip, its bytes are read and unpacked outside of that lock.
"""

import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np


class FileArray:
    """An array that lies in a file as it does in memory; a slice of its first axis is read when asked for.

    Parameters
    ----------
    path : Path
        The file.
    dtype : numpy dtype
        Of its elements.
    shape : tuple of int
        Of the array.
    offset : int
        Where it begins, in bytes.

    Raises
    ------
    ValueError
        If the file is too short.
    """

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int = 0):
        self.dtype, self.shape, self._offset = np.dtype(dtype), shape, offset
        self._row_bytes = self.dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._file = path.open("rb", buffering=0)
        if os.fstat(self._file.fileno()).st_size < offset + self._row_bytes * shape[0]:
            self._file.close()
            raise ValueError(f"{path.name} is shorter than its {shape[0]} entries")

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        result = np.empty((max(stop - start, 0), *self.shape[1:]), dtype=self.dtype)
        rest, at = result.reshape(-1).view(np.uint8).data, self._offset + start * self._row_bytes
        while rest:
            read = os.preadv(self._file.fileno(), [rest], at)
            if read == 0:
                raise OSError("the file ends early")
            rest, at = rest[read:], at + read
        return result

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ChunkedArray:
    """A one-dimensional HDF5 dataset in chunks, plain or packed by gzip (with or without shuffling)."""

    def __init__(self, dataset: h5py.Dataset):
        assert dataset.chunks is not None, "a dataset in chunks"
        self._dataset, self._chunk = dataset, dataset.chunks[0]
        self.dtype, self.shape = dataset.dtype, dataset.shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        result = np.empty(max(stop - start, 0), dtype=self.dtype)
        for first in range(start - start % self._chunk, stop, self._chunk):
            begin, end = max(start, first), min(stop, first + self._chunk)
            result[begin - start : end - start] = self._unpacked(first)[begin - first : end - first]
        return result

    def _unpacked(self, first: int) -> np.ndarray:
        mask, packed = self._dataset.id.read_direct_chunk((first,))
        if mask:  # a chunk that skipped a filter
            return self._dataset[first : first + self._chunk]
        if self._dataset.compression == "gzip":
            packed = zlib.decompress(packed)
        if self._dataset.shuffle and self.dtype.itemsize > 1:
            packed = np.frombuffer(packed, dtype=np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        return np.frombuffer(packed, dtype=self.dtype)


def unlocked(array: Any) -> Any:
    """Return an array that reads like `array` without HDF5's lock, or `array` itself where that cannot be done."""
    if not isinstance(array, h5py.Dataset) or array.dtype.kind not in "iufb" or 0 in array.shape:
        return array
    if array.file.driver != "sec2":
        return array
    if array.chunks is None and array.id.get_offset() is not None:
        return FileArray(Path(array.file.filename), array.dtype, array.shape, array.id.get_offset())
    plain = array.compression in (None, "gzip") and not array.fletcher32 and array.scaleoffset is None
    if plain and array.ndim == 1 and array.chunks and _only_known_filters(array):
        return ChunkedArray(array)
    return array


def _only_known_filters(array: h5py.Dataset) -> bool:
    created = array.id.get_create_plist()
    codes = [created.get_filter(number)[0] for number in range(created.get_nfilters())]
    known = [h5py.h5z.FILTER_SHUFFLE] * bool(array.shuffle) + [h5py.h5z.FILTER_DEFLATE] * (array.compression == "gzip")
    return codes == known
