"""A store of any number of cells whose tables are real and whose arrays are holes: what opening and sampling cost."""

import json
from pathlib import Path

import numpy as np

from bionemo.cellsets.store.cell_store import RUN_DTYPE
from bionemo.cellsets.store.manifest import (
    COLUMNS,
    DATA,
    FORMAT,
    FORMAT_VERSION,
    LIBRARY_SIZE,
    MANIFEST,
    ROW_POINTERS,
    RUNS,
    TABLES,
    sealed,
)

VALUES_PER_CELL = 199
GENES = 2_000


def write_large_store(path: Path, cells: int, *, contexts: int = 50, perturbations: int = 1_000) -> None:
    """Write the store; its files are sparse, so it takes a few MB of disk.

    Parameters
    ----------
    path : Path
        Directory to make.
    cells : int
        Rows, shared among runs alike; a tenth are controls.
    contexts, perturbations : int
        There is a run for each pair, and one of controls for each context.
    """
    (path / "cellsets").mkdir(parents=True)
    runs = np.zeros(contexts * (perturbations + 1), dtype=RUN_DTYPE)
    runs["context"] = np.repeat(np.arange(contexts), perturbations + 1)
    runs["perturbation"] = np.tile(np.arange(perturbations + 1), contexts)
    runs["batch"] = -1
    weight = np.where(runs["perturbation"] == 0, perturbations / 9, 1.0)
    ends = np.round(np.cumsum(weight) * (cells / weight.sum())).astype(np.int64)
    runs["length"] = np.diff(ends, prepend=0)
    runs["start"] = ends - runs["length"]
    np.save(path / RUNS, runs)
    tables = {
        "genes": [f"gene{number:05}" for number in range(GENES)],
        "contexts": [f"context{number:03}" for number in range(contexts)],
        "perturbations": ["control", *(f"p{number:05}" for number in range(1, perturbations + 1))],
        "batches": [],
    }
    (path / TABLES).write_text(json.dumps(tables))
    with (path / LIBRARY_SIZE).open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (cells,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * cells)
    types = {
        DATA: ("uint8", cells * VALUES_PER_CELL),
        COLUMNS: ("uint16", cells * VALUES_PER_CELL),
        ROW_POINTERS: ("uint64", cells + 1),
    }
    for name, (dtype, length) in types.items():
        with (path / name).open("wb") as file:
            file.truncate(length * np.dtype(dtype).itemsize)
    # Nothing reads the holes, so their checksums are not computed.
    files = {
        name: {"bytes": (path / name).stat().st_size, "sha256": "0" * 64}
        | ({"dtype": types[name][0]} if name in types else {})
        for name in (*types, RUNS, TABLES, LIBRARY_SIZE)
    }
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": "counts",
        "control": "control",
        "keys": {"perturbation": "perturbation", "context": "context", "batch": None},
        "target_sum": 10_000.0,
        "n_cells": cells,
        "n_genes": GENES,
        "n_values": cells * VALUES_PER_CELL,
        "gene_selection": {"of": GENES, "source": "all genes"},
        "files": files,
    }
    (path / MANIFEST).write_text(json.dumps(sealed(manifest)))
