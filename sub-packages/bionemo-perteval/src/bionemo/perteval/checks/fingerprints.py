"""Find the same cell again: rows of two matrices that express the same genes at the same values."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

_FEWEST_GENES = 5
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Fingerprints:
    """`Fingerprints` tell cells apart by two numbers each: which genes they express, and a weighted sum of values."""

    pattern: np.ndarray
    """Hash of the set of expressed genes, uint64 [n]."""
    value: np.ndarray
    """Sum of values times fixed random weights [n]."""

    @classmethod
    def of(cls, cells: sp.csr_matrix | np.ndarray) -> "Fingerprints":
        """Take the fingerprints of cells, log1p [n, G].

        Cells with fewer than five expressed genes are left out: two of them may well be equal by chance.
        """
        matrix = sp.csr_matrix(cells)
        genes = int(matrix.shape[1])  # type: ignore[index]
        rng = np.random.default_rng(0)
        hashes = rng.integers(0, 2**63, genes, dtype=np.uint64)
        weights = rng.normal(size=genes)
        expressed = matrix.data != 0
        # Sums of integers may overflow, which changes nothing about their differences.
        pattern = row_sums(np.where(expressed, hashes[matrix.indices], 0).astype(np.uint64), matrix.indptr)
        row = np.repeat(np.arange(pattern.size), np.diff(matrix.indptr))
        value = np.bincount(row, weights=matrix.data * weights[matrix.indices], minlength=pattern.size)
        keep = row_sums(expressed.astype(np.int64), matrix.indptr) >= _FEWEST_GENES
        return cls(pattern[keep], value[keep])

    def __len__(self) -> int:
        return self.pattern.size

    @classmethod
    def joined(cls, parts: "list[Fingerprints]") -> "Fingerprints":
        """Put several together."""
        return cls(np.concatenate([p.pattern for p in parts]), np.concatenate([p.value for p in parts]))

    def found_in(self, other: "Fingerprints") -> np.ndarray:
        """Say of each cell whether `other` has it, bool [n]; values may differ by rounding."""
        order = np.lexsort((other.value, other.pattern))
        patterns, values = other.pattern[order], other.value[order]
        found = np.zeros(len(self), dtype=bool)
        first = np.searchsorted(patterns, self.pattern, side="left")
        last = np.searchsorted(patterns, self.pattern, side="right")
        for cell in np.flatnonzero(last > first):
            near = values[first[cell] : last[cell]]
            place = np.searchsorted(near, self.value[cell])
            around = near[max(place - 1, 0) : place + 1]
            found[cell] = bool(np.any(np.abs(around - self.value[cell]) <= _TOLERANCE * (1 + abs(self.value[cell]))))
        return found

    def distinct(self) -> int:
        """Return the number of different cells."""
        return np.unique(self._keys()).size

    def _keys(self) -> np.ndarray:
        """Return one sortable key a cell. Cells of one matrix that are equal have equal sums to the last bit."""
        keys = np.empty(len(self), dtype=[("pattern", np.uint64), ("value", np.float64)])
        keys["pattern"], keys["value"] = self.pattern, self.value
        return keys


def shared(populations: Mapping[str, Fingerprints]) -> dict[str, np.ndarray]:
    """Say of each cell of each population whether another of the populations has it too, bool [n]."""
    keys = np.concatenate([own._keys() for own in populations.values()])
    owner = np.repeat(np.arange(len(populations)), [len(own) for own in populations.values()])
    _, cell = np.unique(keys, return_inverse=True)
    pairs = np.unique(np.stack([cell, owner]), axis=1)
    owners = np.bincount(pairs[0], minlength=1)
    several = owners[cell] > 1
    ends = np.cumsum([len(own) for own in populations.values()])
    return dict(zip(populations, np.split(several, ends[:-1]), strict=True))


def row_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the sum of the values of each row of a sparse matrix, from the ends of its rows [n + 1]; [n]."""
    sums = np.concatenate([np.zeros(1, dtype=values.dtype), np.cumsum(values, dtype=values.dtype)])
    return sums[starts[1:]] - sums[starts[:-1]]
