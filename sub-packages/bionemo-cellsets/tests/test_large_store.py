"""A store of 100 million cells, its arrays holes in sparse files: opening and sampling read tables and sizes."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from bionemo.cellsets import CellStore, SetSampler
from bionemo.cellsets.sampling.controls import ControlPools
from bionemo.cellsets.store import manifest as layout
from bionemo.cellsets.store.cell_store import RUN_DTYPE


@pytest.fixture
def large(tmp_path) -> Path:
    runs = np.zeros(50_000, dtype=RUN_DTYPE)
    runs["context"], runs["perturbation"], runs["batch"] = np.repeat(np.arange(50), 1000), np.tile(range(1000), 50), -1
    runs["length"] = 2000 + np.arange(50_000) % 7 - 3
    runs["length"][0] += 10**8 - runs["length"].sum()
    runs["start"] = np.cumsum(runs["length"]) - runs["length"]
    labels = {name: [f"{name}{i:04d}" for i in range(n)] for name, n in (("contexts", 50), ("perturbations", 1000))}
    n_cells, n_values = 10**8, 2 * 10**10
    (tmp_path / "cellsets").mkdir()
    np.save(tmp_path / layout.RUNS, runs)
    (tmp_path / layout.TABLES).write_text(json.dumps(labels | {"genes": [f"g{i}" for i in range(2000)], "batches": []}))
    raw = {layout.DATA: (n_values, "uint8"), layout.COLUMNS: (n_values, "uint16")}
    raw[layout.ROW_POINTERS] = (n_cells + 1, "uint64")
    for name, (length, dtype) in raw.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(length * np.dtype(dtype).itemsize)
    with (tmp_path / layout.LIBRARY_SIZE).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (n_cells,)})
        file.truncate(file.tell() + 4 * n_cells)
    names = (*raw, layout.RUNS, layout.TABLES, layout.LIBRARY_SIZE)
    files = {name: {"bytes": (tmp_path / name).stat().st_size, "sha256": ""} for name in names}
    for name, (_, dtype) in raw.items():
        files[name]["dtype"] = dtype
    manifest = {"format": layout.FORMAT, "format_version": layout.FORMAT_VERSION, "kind": "counts", "target_sum": 1e4}
    manifest |= {"control": "perturbations0000", "keys": dict.fromkeys(("perturbation", "context", "batch"))}
    manifest |= {"n_cells": n_cells, "n_genes": 2000, "n_values": n_values, "files": files}
    manifest["gene_selection"] = {"of": 2000, "source": "all genes"}
    (tmp_path / layout.MANIFEST).write_text(json.dumps(layout.sealed(manifest)))
    return tmp_path


def resident() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.parametrize("blocks", [1, 4])
def test_a_hundred_million_cells_open_at_once_and_step_in_milliseconds(large, blocks):
    before, begun = resident(), time.process_time()
    store = CellStore.open(large)
    sampler = SetSampler(store, ~store.is_control, set_size=64, sets_per_batch=16, seed=0, blocks=blocks)
    pools = ControlPools(store)
    assert time.process_time() - begun < 5
    sampler.step(0, 0)
    steps = []
    for step in range(1, 50):
        begun = time.process_time()
        sets = sampler.step(0, step)
        pools.rows(sets, 64)
        steps.append(time.process_time() - begun)
    assert np.median(steps) < 0.005
    assert sampler.n_cells > 99 * 10**6
    assert resident() - before < 200 * 2**20
