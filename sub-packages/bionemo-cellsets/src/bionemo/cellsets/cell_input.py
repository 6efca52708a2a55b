"""What `prepare` reads: cells in blocks of rows, checked; every way an input can be wrong ends here in one sentence."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.cellsets.errors import InputError, name_list

BLOCK_VALUES = 2**22
"""Values read at once; what a block takes in memory is a few dozen bytes a value."""
BLOCK_ROWS = 2**17
"""Rows, and labels or names, read at once."""
HASHED_AT_ONCE = 2**23
"""Names compared with each other in one pass over the names of an input."""
LARGEST_LOG1P = 20.0
"""log1p values stay below: exp(20) is half a thousand million counts in one gene of one cell."""


class CellInput(ABC):
    """Cells of one file or archive, never all of them in memory.

    Attributes
    ----------
    path : Path
        Where they are.
    where : str
        What of it holds the expression, for messages: ``X``, ``layer 'counts'``.
    n_cells : int
        Rows.
    genes : array of str [G]
        Distinct gene names, in column order.
    """

    path: Path
    where: str
    n_cells: int
    genes: np.ndarray

    @abstractmethod
    def names(self, start: int, stop: int) -> np.ndarray:
        """Return the cells' names in rows [start, stop), object array of str."""

    @abstractmethod
    def labels(self, key: str, start: int, stop: int) -> np.ndarray:
        """Return an obs column in rows [start, stop), object array of str; empty where it has no value.

        `key` may be several columns joined by ``+``; their values are joined the same way.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abstractmethod
    def _stored_blocks(self) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Yield (first row, CSR rows) in row order, as they are stored."""

    def blocks(self, *, already_log1p: bool) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Yield all rows in order.

        Parameters
        ----------
        already_log1p : bool
            The values are log1p of normalised counts, not counts.

        Yields
        ------
        int
            The block's first row.
        CSR [rows, G]
            uint32 counts or float32 log1p values, checked; sorted indices, no stored zeros.

        Raises
        ------
        InputError
            For the first value that is none.
        """
        for start, matrix in self._stored_blocks():
            try:
                matrix.check_format(full_check=True)
            except ValueError as error:
                raise self.damaged(error) from error
            yield start, self._checked(start, matrix, already_log1p=already_log1p)

    def damaged(self, error: object) -> InputError:
        """Return the error for expression that cannot be read."""
        return InputError(f"{self.where} of {self.path} is a damaged matrix ({error}): write the file again")

    def check_names(self) -> None:
        """Refuse genes or cells of one name.

        Raises
        ------
        InputError
            Naming some of them.
        """
        duplicated = sorted({str(gene) for gene in self.genes[pd.Index(self.genes).duplicated()]})
        if duplicated:
            raise InputError(
                f"{self.path} names {len(duplicated)} genes more than once ({name_list(duplicated)}): "
                "make them distinct, for example with AnnData.var_names_make_unique"
            )
        # Names of many cells do not fit in memory; hashes of a share of them do, and equal names share a hash.
        shares = -(-self.n_cells // HASHED_AT_ONCE)
        for share in range(shares):
            hashes = np.concatenate(
                [found[found % np.uint64(shares) == share] for found in map(_hash_names, self._name_blocks())]
            )
            hashes.sort()
            repeated = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])[:8]
            if len(repeated):
                self._refuse_repeated(repeated)

    def _refuse_repeated(self, hashes: np.ndarray) -> None:
        kept = [names[np.isin(_hash_names(names), hashes)] for names in self._name_blocks()]
        counts = pd.Series(np.concatenate(kept)).value_counts()
        repeated = [str(name) for name, count in counts.items() if count > 1]
        if repeated:  # else two names share a hash by chance
            raise InputError(
                f"{self.path} names cells more than once ({name_list(sorted(repeated))} among them): "
                "drop the copies, or make the names distinct, for example with AnnData.obs_names_make_unique"
            )

    def _name_blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, self.n_cells, BLOCK_ROWS):
            yield self.names(start, min(start + BLOCK_ROWS, self.n_cells))

    def _checked(self, start: int, matrix: Any, *, already_log1p: bool) -> sp.csr_matrix:
        values = matrix.data

        def refuse(wrong: np.ndarray, reason: str) -> None:
            if wrong.any():
                at = int(np.argmax(wrong))
                row = start + int(np.searchsorted(matrix.indptr, at, side="right")) - 1
                cell, gene = self.names(row, row + 1)[0], self.genes[matrix.indices[at]]
                raise InputError(
                    f"{self.where} of {self.path} holds {values[at]:g} at cell '{cell}', gene '{gene}': {reason}"
                )

        refuse(~np.isfinite(values), "replace or leave out what is not a finite number")
        refuse(values < 0, "expression cannot be negative, so choose unscaled counts with --layer")
        if already_log1p:
            refuse(values > LARGEST_LOG1P, "that is no log1p value, so leave out --log1p")
            matrix = matrix.astype(np.float32)
        else:
            if values.dtype.kind == "f":
                refuse(
                    values != np.rint(values),
                    "that is no count, so choose a layer of counts with --layer or say --log1p",
                )
            refuse(values > np.iinfo(np.uint32).max, "that is more than a count can be here, 4294967295")
            matrix = matrix.astype(np.uint32)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix


def provenance(path: Path) -> dict[str, Any]:
    """Say which file an input was: name, size in bytes (of a directory, of its files), time of change."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return {"name": path.name, "bytes": size, "modified": int(os.stat(path).st_mtime)}


def _hash_names(names: np.ndarray) -> np.ndarray:
    return pd.util.hash_array(names, categorize=False)  # pyright: ignore[reportAttributeAccessIssue]
