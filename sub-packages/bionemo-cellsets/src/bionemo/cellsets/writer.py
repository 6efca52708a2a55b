"""Writes a store: all of it under its name, or nothing.

The arrays are written to a hidden sibling directory, flushed to disk, and renamed.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bionemo.cellsets.errors import InputError
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

PACKAGES = ("bionemo-cellsets", "bionemo-scdl", "anndata", "numpy", "scanpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class StoreContents:
    """What goes into a store; rows in store order.

    Attributes
    ----------
    data : uint8, uint16, uint32 or float32 array [n_values]
        Counts or log1p values.
    columns : uint16 or uint32 array [n_values]
        Gene of each value.
    row_pointers : uint64 array [n_cells + 1]
        Where each row begins in `data`.
    runs : structured array
        The run table.
    library_size : float32 array [n_cells]
        Total count over all genes.
    tables : mapping
        The lists ``genes``, ``contexts``, ``perturbations``, ``batches``.
    obs : mapping
        Columns of the cells' names and labels, ``cell`` first.
    manifest : mapping
        The rest: kind, control, keys, target_sum, provenance.
    """

    data: np.ndarray
    columns: np.ndarray
    row_pointers: np.ndarray
    runs: np.ndarray
    library_size: np.ndarray
    tables: Mapping[str, list[str]]
    obs: Mapping[str, np.ndarray]
    manifest: Mapping[str, Any]


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


def write_store(contents: StoreContents, store: Path, *, overwrite: bool = False) -> None:
    """Write a store.

    Parameters
    ----------
    contents : StoreContents
        What to write.
    store : Path
        Where; parents are made.
    overwrite : bool
        Replace a store that is there, after the new one is complete.

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
        _write_files(contents, partial)
        _put_in_place(partial, store)
    except OSError as error:
        raise InputError(
            f"The store {store} cannot be written ({error.strerror or error}): "
            "free space there or choose another directory"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _sibling(store: Path, purpose: str) -> Path:
    # In the same directory, so that renaming it is atomic; hidden, so that nobody takes it for a store.
    return store.absolute().with_name(f".{store.name}.{secrets.token_hex(4)}.{purpose}")


def _write_files(contents: StoreContents, folder: Path) -> None:
    raw = {DATA: contents.data, COLUMNS: contents.columns, ROW_POINTERS: contents.row_pointers}
    for name, array in raw.items():
        array.astype(array.dtype.newbyteorder("<"), copy=False).tofile(folder / name)
    (folder / "cellsets").mkdir()
    np.save(folder / RUNS, contents.runs)
    np.save(folder / LIBRARY_SIZE, contents.library_size)
    (folder / TABLES).write_text(json.dumps(contents.tables, ensure_ascii=False), encoding="utf-8")
    _write_scdl(contents, raw, folder)
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": file_checksum(path)}
        if name in raw:
            files[name]["dtype"] = raw[name].dtype.name
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **contents.manifest,
        "n_cells": len(contents.row_pointers) - 1,
        "n_genes": len(contents.tables["genes"]),
        "n_values": len(contents.data),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "files": files,
    }
    manifest["fingerprint"] = fingerprint_of(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _write_scdl(contents: StoreContents, raw: Mapping[str, np.ndarray], folder: Path) -> None:
    # The header, metadata and feature indexes as SingleCellMemMapDataset.save writes them; its own writer insists on
    # arrays in memory maps of its making.
    from bionemo.scdl.index.row_feature_index import ObservedFeatureIndex, VariableFeatureIndex
    from bionemo.scdl.schema.header import ArrayInfo, FeatureIndexInfo, SCDLHeader
    from bionemo.scdl.util.scdl_constants import ArrayDType, FileNames

    n_cells = len(contents.row_pointers) - 1
    variables, observations = VariableFeatureIndex(), ObservedFeatureIndex()
    variables.append_features(n_cells, {"feature_id": np.array(contents.tables["genes"], dtype=object)}, "genes")
    observations.append_features({name: np.asarray(column) for name, column in contents.obs.items()}, "cells")
    indexes = {FileNames.VAR_FEATURES.value: variables, FileNames.OBS_FEATURES.value: observations}
    header = SCDLHeader()
    for file in (FileNames.DATA, FileNames.ROWPTR, FileNames.COLPTR):
        array = raw[file.value]
        header.add_array(ArrayInfo(file.name, len(array), ArrayDType.from_numpy_dtype(array.dtype)))
    for name, index in indexes.items():
        index.save(str(folder / name))
        index_files = sorted(path.relative_to(folder).as_posix() for path in (folder / name).iterdir())
        header.add_feature_index(FeatureIndexInfo(name, n_cells, ArrayDType.STRING_ARRAY, index_files))
    header.save(str(folder / FileNames.HEADER.value))
    (folder / FileNames.METADATA.value).write_text(json.dumps({"num_rows": n_cells}))
    (folder / FileNames.VERSION.value).write_text(json.dumps(importlib.metadata.version("bionemo-scdl")))


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
