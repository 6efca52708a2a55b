"""Write the files of a store: the arrays are appended, rows in store order; the manifest comes last."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import io
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bionemo.cellsets.preparation.second_pass import StoredRows
from bionemo.cellsets.preparation.workplace import flush, whole_file
from bionemo.cellsets.store.manifest import (
    COLUMNS,
    DATA,
    FORMAT,
    FORMAT_VERSION,
    LIBRARY_SIZE,
    MANIFEST,
    OBS,
    ROW_POINTERS,
    RUNS,
    TABLES,
    sealed,
)
from bionemo.screens.digests import file_digest

PACKAGES = ("bionemo-cellsets", "bionemo-scdl", "anndata", "numpy", "scipy")


class StoreWriter:
    """A `StoreWriter` appends rows to a new store in an empty directory, then finishes it.

    Its tables are the lists ``genes``, ``contexts``, ``perturbations`` and ``batches``; values are uint8, uint16,
    uint32 or float32.
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
        self._checksums: dict[str, str] = {}
        self._kinds = ("perturbation", "context", *(["batch"] if tables["batches"] else []))
        labels = {"perturbation": "perturbations", "context": "contexts", "batch": "batches"}
        self._labels = {kind: pa.array(tables[labels[kind]], pa.string()) for kind in self._kinds}
        self._schema = pa.schema(
            [("cell", pa.string()), *((kind, pa.dictionary(pa.int32(), pa.string())) for kind in self._kinds)]
        )
        (folder / "cellsets").mkdir()
        (folder / "obs_features").mkdir()

    def write(self, blocks: Iterator[StoredRows], threads: int = 1) -> None:
        """Write all rows of the store, in order; `threads` threads share the files."""
        import pyarrow.parquet as pq

        with contextlib.ExitStack() as stack:
            files = {
                name: stack.enter_context(_HashedFile(self._folder / name)) for name in (*self._types, LIBRARY_SIZE)
            }
            # Without Arrow's own schema the labels are read as text, though they come with their numbers. The names
            # of cells have no repetitions to look for.
            obs = stack.enter_context(
                pq.ParquetWriter(
                    self._folder / OBS,
                    self._schema,
                    store_schema=False,
                    use_dictionary=[*self._kinds],  # pyright: ignore[reportArgumentType]
                )
            )
            files[ROW_POINTERS].write(np.zeros(1, dtype="<u8"))
            files[LIBRARY_SIZE].write(_npy_header(self._n_cells))
            pool = stack.enter_context(ThreadPoolExecutor(threads))
            writing: list[Future[None]] = []
            for rows in blocks:
                for future in writing:  # each file is written by one thread at a time
                    future.result()
                pointers = self._n_values + np.cumsum(rows.lengths)
                parts = {DATA: rows.values, COLUMNS: rows.columns, ROW_POINTERS: pointers}
                parts = {name: array.astype(self._types[name].newbyteorder("<"), copy=False)
                         for name, array in parts.items()}  # fmt: skip
                parts[LIBRARY_SIZE] = rows.library_size.astype("<f4", copy=False)
                writing = [pool.submit(files[name].write, array) for name, array in parts.items()]
                writing.append(pool.submit(self._write_obs, obs, self._written, rows.names))
                self._n_values += len(rows.values)
                self._written += len(rows.lengths)
            for future in writing:
                future.result()
        self._checksums = {name: file.checksum for name, file in files.items()}
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
            files[name] = {"bytes": path.stat().st_size, "sha256": self._checksums.get(name) or file_digest(path)}
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
        for path in folder.rglob("*"):
            flush(path)
        # Under its own name at last: a store with a manifest is complete.
        with whole_file(folder / MANIFEST) as file:
            file.write(json.dumps(sealed(complete), indent=1, ensure_ascii=False).encode())
        flush(folder)

    def _write_obs(self, file: Any, first: int, names: np.ndarray) -> None:
        """Append the cells of rows from `first` on."""
        import pyarrow as pa

        starts = self._runs["start"]
        begin, end = np.searchsorted(starts, (first, first + len(names) - 1), side="right") - (1, 0)
        edges = np.append(np.maximum(starts[begin:end], first), first + len(names))
        runs = np.repeat(np.arange(begin, end), np.diff(edges))
        columns = [pa.DictionaryArray.from_arrays(self._runs[kind][runs], self._labels[kind]) for kind in self._kinds]
        file.write_table(pa.table([pa.array(names).cast(pa.string()), *columns], schema=self._schema))


class _HashedFile:
    """A `_HashedFile` is written from its beginning to its end, and hashed on the way."""

    def __init__(self, path: Path):
        self._file, self._hash = path.open("wb", buffering=0), hashlib.sha256()

    def __enter__(self) -> "_HashedFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def checksum(self) -> str:
        """Return the SHA-256 of what was written, hexadecimal."""
        return self._hash.hexdigest()

    def write(self, content: np.ndarray | bytes) -> None:
        """Append the bytes of an array."""
        rest = memoryview(content) if isinstance(content, bytes) else content.view(np.uint8).data
        self._hash.update(rest)
        while rest:
            rest = rest[self._file.write(rest) :]


def column_type(n_genes: int) -> np.dtype:
    """Return the type of the column indices of a store with so many genes."""
    return np.dtype(np.uint16 if n_genes <= 2**16 else np.uint32)


def _npy_header(n: int) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (n,)})
    return header.getvalue()


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
