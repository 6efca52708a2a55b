"""Writes a store: all of it under its name, or nothing.

The arrays are appended, rows in store order, in a hidden sibling directory, flushed to disk, and renamed.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bionemo.cellsets.errors import InputError
from bionemo.cellsets.sorting import StoredRows
from bionemo.cellsets.store import (
    COLUMNS,
    DATA,
    FORMAT,
    FORMAT_VERSION,
    LIBRARY_SIZE,
    MANIFEST,
    ROW_POINTERS,
    RUNS,
    TABLES,
    file_checksum,
    fingerprint_of,
)

PACKAGES = ("bionemo-cellsets", "bionemo-scdl", "anndata", "numpy", "scipy")


@contextlib.contextmanager
def new_store(store: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Make a store: yield a hidden directory to write in, and give it the store's name when that is done.

    Parameters
    ----------
    store : Path
        Where; parents are made.
    overwrite : bool
        Replace a store that is there, after the new one is complete.

    Yields
    ------
    Path
        The empty directory.

    Raises
    ------
    InputError
        If `store` is in the way, or cannot be written; nothing of the new store remains then.
    """
    check_target(store, overwrite=overwrite)
    partial = None
    try:
        store.absolute().parent.mkdir(parents=True, exist_ok=True)
        partial = _sibling(store, "partial")
        partial.mkdir()
        yield partial
        _put_in_place(partial, store)
    except OSError as error:
        raise InputError(
            f"The store {store} cannot be written ({error.strerror or error}): "
            "free space there or choose another directory"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


class StoreWriter:
    """Appends rows to a new store, then finishes it.

    Parameters
    ----------
    folder : Path
        An empty directory.
    runs : structured array
        The run table.
    tables : mapping
        The lists ``genes``, ``contexts``, ``perturbations``, ``batches``.
    value_type : numpy dtype
        uint8, uint16, uint32 or float32.
    """

    def __init__(self, folder: Path, runs: np.ndarray, tables: Mapping[str, list[str]], value_type: np.dtype):
        import pyarrow as pa

        self._folder, self._runs, self._tables = folder, runs, tables
        self._types = {
            DATA: np.dtype(value_type),
            COLUMNS: column_type(len(tables["genes"])),
            ROW_POINTERS: np.dtype(np.uint64),
        }
        self._n_cells, self._n_values = int(runs["length"].sum()), 0
        self._written = 0
        self._kinds = ("perturbation", "context", *(["batch"] if tables["batches"] else []))
        self._schema = pa.schema([(name, pa.string()) for name in ("cell", *self._kinds)])
        (folder / "cellsets").mkdir()
        (folder / "obs_features").mkdir()

    def write(self, blocks: Iterator[StoredRows]) -> None:
        """Write all rows of the store, in order."""
        import pyarrow.parquet as pq

        with contextlib.ExitStack() as stack:
            files = {
                name: stack.enter_context((self._folder / name).open("wb")) for name in (*self._types, LIBRARY_SIZE)
            }
            obs = stack.enter_context(pq.ParquetWriter(self._folder / "obs_features/dataframe_0.parquet", self._schema))
            _append(files[ROW_POINTERS], np.zeros(1, dtype="<u8"))
            np.lib.format.write_array_header_1_0(
                files[LIBRARY_SIZE], {"descr": "<f4", "fortran_order": False, "shape": (self._n_cells,)}
            )
            for rows in blocks:
                pointers = self._n_values + np.cumsum(rows.lengths)
                parts = {DATA: rows.values, COLUMNS: rows.columns, ROW_POINTERS: pointers}
                for name, array in parts.items():
                    _append(files[name], array.astype(self._types[name].newbyteorder("<"), copy=False))
                _append(files[LIBRARY_SIZE], rows.library_size.astype("<f4", copy=False))
                obs.write_table(self._obs(rows.names))
                self._n_values += len(rows.values)
                self._written += len(rows.lengths)
        assert self._written == self._n_cells, "as many rows as the run table says"

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write what describes the arrays, `manifest` among it, and flush everything to disk."""
        folder = self._folder
        np.save(folder / RUNS, self._runs)
        (folder / TABLES).write_text(json.dumps(self._tables, ensure_ascii=False), encoding="utf-8")
        lengths = {DATA: self._n_values, COLUMNS: self._n_values, ROW_POINTERS: self._n_cells + 1}
        _write_scdl(folder, self._tables["genes"], self._n_cells, lengths, self._types)
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": file_checksum(path)}
            if name in self._types:
                files[name]["dtype"] = self._types[name].name
        complete = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **manifest,
            "n_cells": self._n_cells,
            "n_genes": len(self._tables["genes"]),
            "n_values": self._n_values,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
            "files": files,
        }
        complete["fingerprint"] = fingerprint_of(complete)
        (folder / MANIFEST).write_text(json.dumps(complete, indent=1, ensure_ascii=False), encoding="utf-8")
        for path in [*folder.rglob("*"), folder]:
            _flush(path)

    def _obs(self, names: np.ndarray) -> Any:
        import pyarrow as pa

        rows = np.arange(self._written, self._written + len(names))
        runs = self._runs[np.searchsorted(self._runs["start"], rows, side="right") - 1]
        labels = {"perturbation": "perturbations", "context": "contexts", "batch": "batches"}
        columns = [np.array(self._tables[labels[kind]], dtype=object)[runs[kind]] for kind in self._kinds]
        return pa.table([names, *columns], schema=self._schema)


def column_type(n_genes: int) -> np.dtype:
    """Return the type of the column indices of a store with so many genes."""
    return np.dtype(np.uint16 if n_genes <= 2**16 else np.uint32)


def check_target(store: Path, *, overwrite: bool) -> None:
    """Refuse to write over anything but a store, and over a store unless told to.

    Raises
    ------
    InputError
        Naming what is in the way.
    """
    if not os.path.lexists(store):
        return
    if not overwrite:
        raise InputError(f"{store} exists: remove it, choose another directory, or say --overwrite")
    if not (store / MANIFEST).is_file():
        raise InputError(f"{store} is not a cell store, so it is not overwritten: choose another directory")


def _sibling(store: Path, purpose: str) -> Path:
    # In the same directory, so that renaming it is atomic; hidden, so that nobody takes it for a store.
    return store.absolute().with_name(f".{store.name}.{secrets.token_hex(4)}.{purpose}")


def _append(file: BinaryIO, array: np.ndarray) -> None:
    file.write(np.ascontiguousarray(array).data)


def _write_scdl(
    folder: Path, genes: list[str], n_cells: int, lengths: Mapping[str, int], types: Mapping[str, np.dtype]
) -> None:
    # The header, metadata and feature indexes as SingleCellMemMapDataset.save writes them; its own writer insists on
    # arrays in memory maps of its making, and its index of the cells on all their names in memory.
    from bionemo.scdl.index.row_feature_index import VariableFeatureIndex
    from bionemo.scdl.schema.header import ArrayInfo, FeatureIndexInfo, SCDLHeader
    from bionemo.scdl.util.scdl_constants import ArrayDType, FileNames

    version = importlib.metadata.version("bionemo-scdl")
    variables = VariableFeatureIndex()
    variables.append_features(n_cells, {"feature_id": np.array(genes, dtype=object)}, "genes")
    variables.save(str(folder / FileNames.VAR_FEATURES.value))
    observations = folder / FileNames.OBS_FEATURES.value
    np.save(observations / "cumulative_sum_index.npy", np.array([-1, n_cells]))
    np.save(observations / "labels.npy", ["cells"])
    np.save(observations / "version.npy", np.array(version))
    header = SCDLHeader()
    for file in (FileNames.DATA, FileNames.ROWPTR, FileNames.COLPTR):
        header.add_array(ArrayInfo(file.name, lengths[file.value], ArrayDType.from_numpy_dtype(types[file.value])))
    for name in (FileNames.VAR_FEATURES.value, FileNames.OBS_FEATURES.value):
        index_files = sorted(path.relative_to(folder).as_posix() for path in (folder / name).iterdir())
        header.add_feature_index(FeatureIndexInfo(name, n_cells, ArrayDType.STRING_ARRAY, index_files))
    header.save(str(folder / FileNames.HEADER.value))
    (folder / FileNames.METADATA.value).write_text(json.dumps({"num_rows": n_cells}))
    (folder / FileNames.VERSION.value).write_text(json.dumps(version))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(partial: Path, store: Path) -> None:
    store = store.absolute()
    if not store.exists():
        partial.rename(store)
    else:
        replaced = _sibling(store, "replaced")
        store.rename(replaced)
        try:
            partial.rename(store)
        except BaseException:
            replaced.rename(store)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    with contextlib.suppress(OSError):  # some network file systems cannot flush a directory
        _flush(store.parent)
