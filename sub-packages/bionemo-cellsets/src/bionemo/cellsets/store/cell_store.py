"""Map a cell store, read-only, and make its rows dense.

A store is a directory. Its arrays are a bionemo-scdl archive (raw little-endian CSR arrays ``data.npy``,
``col_ptr.npy``, ``row_ptr.npy``, and the header and feature indexes that `SingleCellMemMapDataset` asks for). Beside
them lie ``manifest.json``, and in ``cellsets/`` the run table, the category tables and the library sizes.
"""

import json
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.cellsets.store.manifest import (
    COLUMNS,
    DATA,
    LIBRARY_SIZE,
    OBS,
    ROW_POINTERS,
    RUNS,
    TABLES,
    VALUE_TYPES,
    check_checksums,
    check_sizes,
    read_manifest,
)
from bionemo.screens.controls import PARTS, ControlRole, ControlRoles
from bionemo.screens.errors import InputError, brief
from bionemo.screens.split import Split

RUN_DTYPE = np.dtype(
    [
        *(("context", "<i4"), ("perturbation", "<i4"), ("batch", "<i4"), ("control_part", "u1")),
        *(("start", "<i8"), ("length", "<i8")),
    ]
)
PIECE_ROWS = 128
"""Rows a thread takes at once."""


class CellStore:
    """A `CellStore` maps cells sorted by (context, perturbation, batch, control part); `prepare` makes one.

    Attributes
    ----------
    path : Path
        The directory.
    manifest : dict
        Format version, provenance, normalisation, where the genes come from, size and checksum of every file.
    genes : array of str [G]
        Gene names in column order.
    contexts, perturbations, batches : array of str
        Category tables; `batches` is empty where the store has no batch key.
    control : str
        The perturbation label of control cells.
    keys : dict
        The obs columns the categories were read from: ``perturbation``, ``context``, ``batch`` (or None).
    target_sum : float
        What a cell's counts are scaled to before log1p.
    kind : {"counts", "log1p"}
        Unit of the stored values.
    n_cells, n_genes, n_values : int
        Rows, columns and stored non-zeros.
    runs : structured array
        One row per condition, of control cells one for each part: `context`, `perturbation`, `batch` (int32 indices of
        the tables, batch -1 if there is none), `control_part` (uint8, as `control_parts` says, 0 for other cells),
        `start`, `length` (int64, in store rows); sorted by the first four.
    data, columns, row_pointers : memmap
        The CSR arrays.
    library_size : memmap, float32 [n_cells]
        A cell's total count over all genes of the input, before gene selection; NaN where `kind` is "log1p".
    fingerprint : str
        Identifies the data: equal fingerprints read equal numbers.
    """

    def __init__(self, path: str | Path, *, verify: bool = False):
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        manifest = self.manifest
        check_sizes(self.path, manifest)
        if verify:
            self.verify()
        self.fingerprint: str = manifest["fingerprint"]
        self.control: str = manifest["control"]
        self.keys: dict[str, str | None] = manifest["keys"]
        self.target_sum = float(manifest["target_sum"])
        self.kind: str = manifest["kind"]
        self.n_cells, self.n_genes, self.n_values = (int(manifest[name]) for name in ("n_cells", "n_genes", "n_values"))
        try:
            tables = json.loads((self.path / TABLES).read_text(encoding="utf-8"))
            self.genes, self.contexts, self.perturbations, self.batches = (
                _names(tables[name]) for name in ("genes", "contexts", "perturbations", "batches")
            )
            self.runs = np.load(self.path / RUNS)
            self.library_size = np.load(self.path / LIBRARY_SIZE, mmap_mode="r")
            self._check_tables()
        except InputError:
            raise
        except Exception as error:  # whatever the readers stumble over, the files are the cause
            raise InputError(
                f"The tables of the store {self.path} cannot be read ({brief(error)}): copy or prepare the store again"
            ) from error
        self.data = self._map(DATA, self.n_values)
        self.columns = self._map(COLUMNS, self.n_values)
        self.row_pointers = self._map(ROW_POINTERS, self.n_cells + 1)
        self.runs.setflags(write=False)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> "CellStore":
        """Map a store.

        Parameters
        ----------
        path : path
            The store's directory; it is only read.
        verify : bool
            Recompute every checksum, which reads every byte; without it only names and sizes are checked.

        Raises
        ------
        InputError
            Where there is no store, or one that is damaged or of another format version.
        """
        return cls(path, verify=verify)

    def __reduce__(self):
        return CellStore.open, (self.path,)

    def __repr__(self) -> str:
        return f"CellStore({str(self.path)!r}: {self.n_cells} cells x {self.n_genes} genes, {len(self.runs)} runs)"

    @property
    def control_index(self) -> int:
        """Return the index of the control label in `perturbations`."""
        return int(np.flatnonzero(self.perturbations == self.control)[0])

    @property
    def is_control(self) -> np.ndarray:
        """Say which runs hold control cells, bool [n_runs]."""
        return self.runs["perturbation"] == self.control_index

    def has_role(self, role: ControlRole, roles: ControlRoles) -> np.ndarray:
        """Say which runs hold control cells of a role, bool [n_runs]."""
        return self.is_control & np.isin(self.runs["control_part"], roles.parts(role))

    def control_cells(self, roles: ControlRoles) -> dict[str, dict[ControlRole, int]]:
        """Count the control cells of each context and role."""
        cells: dict[str, dict[ControlRole, int]] = {str(context): {} for context in self.contexts}
        for role in ControlRole:
            runs = self.runs[self.has_role(role, roles)]
            lengths = np.bincount(runs["context"], weights=runs["length"], minlength=len(self.contexts))
            for context, length in zip(cells, lengths, strict=True):
                cells[context][role] = int(length)
        return cells

    def parts(self, split: Split, roles: ControlRoles) -> np.ndarray:
        """Return the part of every run, ``"train"``, ``"val"`` or ``"test"``, an array of str [n_runs].

        Control cells that have not the role ``input`` are held out as those of a test condition are.

        Raises
        ------
        InputError
            If the split names a context the store has not, a perturbation that context has not, or the control label.
        """
        contexts, perturbations = self.contexts[self.runs["context"]], self.perturbations[self.runs["perturbation"]]
        parts = split.parts(contexts, perturbations, self.control)
        return np.where(self.is_control & ~self.has_role(ControlRole.INPUT, roles), "test", parts)

    def read(self, rows: np.ndarray, out: np.ndarray | None = None, *, pool: Executor | None = None) -> np.ndarray:
        """Read cells as dense log1p expression.

        Parameters
        ----------
        rows : integer array, any shape
            Store rows; -1 reads as a row of zeros. Consecutive rows lie next to each other on disk.
        out : float32 or uint16 array [*rows.shape, G], optional
            C-contiguous buffer to fill, uint16 with the bits of bfloat16; without it a new float32 one is made.
        pool : concurrent.futures.Executor, optional
            Threads that share the rows; the numbers are the same with and without them.

        Returns
        -------
        float32 array [*rows.shape, G]
            ``log1p(count * target_sum / library_size)``, computed in float64 and rounded once, or the stored values
            where `kind` is "log1p".

        Raises
        ------
        IndexError
            If a row is outside [-1, n_cells).
        InputError
            If the store's arrays contradict each other there.
        """
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < -1 or rows.max() >= self.n_cells):
            raise IndexError(f"rows must lie in [-1, {self.n_cells}), not {rows.min()} to {rows.max()}")
        shape = (*rows.shape, self.n_genes)
        if out is None:
            out = np.empty(shape, dtype=np.float32)
        elif out.shape != shape or out.dtype not in (np.float32, np.uint16) or not out.flags.c_contiguous:
            raise ValueError(
                f"out must be C-contiguous float32 or uint16 of shape {shape}, not {out.dtype} {out.shape}"
            )
        from bionemo.cellsets.store import kernels

        kernel, others = kernels.densify_values, self._arrays()
        if self.kind == "counts":
            kernel, others = kernels.densify_counts, (*others, np.asarray(self.library_size), self.target_sum)
        self._in_pieces(kernel, (rows.reshape(-1), out.reshape(-1, self.n_genes)), others, pool)
        return out

    def gather(
        self, rows: np.ndarray, first: np.ndarray, values: np.ndarray, columns: np.ndarray, pool: Executor | None = None
    ) -> None:
        """Copy the stored values of rows, int64 [N], -1 for none, to where `first`, int64 [N], says in two arrays.

        The rows' pointers must be sound. The threads of a pool share the rows. An InputError says that a column is none
        of the store's genes.
        """
        from bionemo.cellsets.store import kernels

        self._in_pieces(kernels.gather, (rows, first), (values, columns, *self._arrays()), pool)

    def refuse_damaged(self, row: int) -> None:
        """Raise an InputError about a row that a kernel found damaged; -1 means none."""
        if row >= 0:
            raise InputError(f"Row {row} of the store {self.path} is damaged: copy or prepare the store again")

    def _arrays(self) -> tuple[Any, ...]:
        return *(np.asarray(stored) for stored in (self.data, self.columns, self.row_pointers)), self.n_genes

    def _in_pieces(
        self, kernel: Callable[..., Any], by_row: tuple[np.ndarray, ...], others: tuple[Any, ...], pool: Executor | None
    ) -> None:
        """Run a kernel, which releases the GIL, over rows, in pieces where the threads of a pool share them."""
        step = max(len(by_row[0]), 1) if pool is None else PIECE_ROWS
        pieces = [[array[start : start + step] for array in by_row] for start in range(0, len(by_row[0]), step)]
        damaged = list((map if pool is None else pool.map)(lambda piece: int(kernel(*piece, *others)), pieces))
        self.refuse_damaged(next((row for row in damaged if row >= 0), -1))

    def counts(self, start: int, length: int) -> sp.csr_matrix:
        """Return the stored values of consecutive rows, CSR [length, G]: uint32 counts, or float32 log1p values."""
        if start < 0 or length < 0 or start + length > self.n_cells:
            raise IndexError(f"rows [{start}, {start + length}) are not in [0, {self.n_cells})")
        pointers = np.asarray(self.row_pointers[start : start + length + 1]).astype(np.int64)
        if pointers[0] < 0 or np.any(np.diff(pointers) < 0) or pointers[-1] > self.n_values:
            raise self._damaged(start, start + length)
        values = self.data[pointers[0] : pointers[-1]].astype(np.uint32 if self.kind == "counts" else np.float32)
        columns = self.columns[pointers[0] : pointers[-1]].astype(np.int64)
        if columns.max(initial=0) >= self.n_genes:
            raise self._damaged(start, start + length)
        return sp.csr_matrix((values, columns, pointers - pointers[0]), shape=(length, self.n_genes))

    def obs(self) -> pd.DataFrame:
        """Return one line per stored row: the cell's name in the input (index) and its labels. Loads them all."""
        try:
            return pd.read_parquet(self.path / OBS).set_index("cell")
        except Exception as error:  # pyarrow's errors have no common class
            raise InputError(
                f"'{OBS}' of the store {self.path} cannot be read ({brief(error)}): copy or prepare the store again"
            ) from error

    def verify(self) -> None:
        """Recompute the checksum of every file; an InputError names those that differ from what was written."""
        check_checksums(self.path, self.manifest)

    def _damaged(self, start: int, stop: int) -> InputError:
        return InputError(
            f"Rows {start} to {stop - 1} of the store {self.path} are damaged: copy or prepare the store again"
        )

    def _map(self, name: str, length: int) -> np.memmap:
        dtype = self.manifest["files"][name].get("dtype")
        if (
            dtype not in VALUE_TYPES[name][self.kind]
            or self.manifest["files"][name]["bytes"] != length * np.dtype(dtype).itemsize
        ):
            raise InputError(
                f"The manifest of the store {self.path} contradicts itself about '{name}': prepare the store again"
            )
        return np.memmap(self.path / name, dtype=np.dtype(dtype).newbyteorder("<"), mode="r", shape=(length,))

    def _check_tables(self) -> None:
        runs = self.runs
        sizes = {"context": len(self.contexts), "perturbation": len(self.perturbations), "batch": len(self.batches)}
        consistent = (
            runs.dtype == RUN_DTYPE
            and runs.ndim == 1
            and len(self.genes) == self.n_genes
            and self.control in self.perturbations
            and self.library_size.shape == (self.n_cells,)
            and self.library_size.dtype == np.float32
            and bool(np.all(runs["length"] > 0))
            and np.array_equal(runs["start"], np.cumsum(runs["length"]) - runs["length"])
            and int(runs["length"].sum()) == self.n_cells
            and all(
                bool(np.all((runs[name] >= -(name == "batch")) & (runs[name] < size))) for name, size in sizes.items()
            )
            and bool(np.all(runs["control_part"] < np.where(self.is_control, PARTS, 1)))
        )
        if not consistent:
            raise InputError(
                f"The tables of the store {self.path} contradict each other: copy or prepare the store again"
            )


def _names(table: list[str]) -> np.ndarray:
    if not (isinstance(table, list) and all(isinstance(name, str) for name in table)):
        raise ValueError("a table of names holds something else")
    return np.array(table, dtype=str)
