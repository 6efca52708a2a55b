"""Choosing genes on running sums, sorting on disk, and what it costs in memory and on a full disk."""

import shutil
import subprocess
import sys
import tracemalloc

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from bionemo.cellsets import prepare
from bionemo.cellsets.inputs import matrices, pieces
from bionemo.cellsets.preparation import first_pass, second_pass
from bionemo.cellsets.preparation.second_pass import permuted
from bionemo.cellsets.store.cell_store import RUN_DTYPE
from bionemo.screens import InputError


@pytest.mark.parametrize("already_log1p", [False, True])
def test_genes_are_those_scanpy_chooses(screen, tmp_path, keys, already_log1p):
    rng = np.random.default_rng(3)
    counts = rng.negative_binomial(rng.uniform(0.2, 3, 400), 0.2, size=(315, 400)) * rng.binomial(1, 0.7, 400)
    counts[:, 7] = 0
    data = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=screen.obs)
    normalised = data.copy()
    sc.pp.normalize_total(normalised, target_sum=10_000)
    sc.pp.log1p(normalised)
    (normalised if already_log1p else data).write_h5ad(tmp_path / "s.h5ad")
    sc.pp.highly_variable_genes(normalised, n_top_genes=60, flavor="seurat")
    made = prepare(
        [tmp_path / "s.h5ad"], tmp_path / "s", n_genes=60, already_log1p=already_log1p, progress=False, **keys
    )
    assert made.genes.tolist() == normalised.var_names[normalised.var["highly_variable"]].tolist()


def test_genes_may_be_chosen_on_all_cells_for_parity(screen_path, tmp_path, keys):
    split = tmp_path / "split.toml"
    split.write_text('[zeroshot]\n"B" = "test"\n')
    arguments = {"n_genes": 12, "progress": False, **keys}
    without = prepare([screen_path], tmp_path / "without", **arguments)
    for_parity = prepare([screen_path], tmp_path / "all", split=split, hvg_from="all", **arguments)
    assert for_parity.fingerprint == without.fingerprint
    assert for_parity.manifest["gene_selection"]["split_hash"] is None
    assert "on all cells" in for_parity.manifest["gene_selection"]["source"]
    with pytest.raises(InputError, match="hvg_from is 'test': choose one of train, all"):
        prepare([screen_path], tmp_path / "x", split=split, hvg_from="test", **arguments)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_permutations_are_permutations(length, key):
    numbers = np.arange(length)
    images = permuted(numbers, np.full(length, length), np.full(length, key, dtype=np.uint64))
    np.testing.assert_array_equal(np.sort(images), numbers)


def test_permutations_leave_no_trace_of_the_order():
    n = 20_000
    images = permuted(np.arange(n), np.full(n, n), np.full(n, 5, dtype=np.uint64))
    other = permuted(np.arange(n), np.full(n, n), np.full(n, 6, dtype=np.uint64))
    for one, two in ((np.arange(n), images), (images[:-1], images[1:]), (images, other)):
        assert abs(np.corrcoef(one, two)[0, 1]) < 4 / np.sqrt(n)
    first_half = images[: n // 2]
    assert abs((first_half < n // 2).mean() - 0.5) < 0.02


def test_places_fill_every_run_whatever_the_blocks():
    runs = np.zeros(3, dtype=RUN_DTYPE)
    runs["length"] = [5, 1, 14]
    runs["start"] = [0, 5, 6]
    run = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [5, 1, 14]))
    whole = second_pass.PlaceInRun(runs, seed=0).rows(run)
    np.testing.assert_array_equal(np.sort(whole), np.arange(20))
    np.testing.assert_array_equal(np.searchsorted(runs["start"], whole, side="right") - 1, run)
    place = second_pass.PlaceInRun(runs, seed=0)
    np.testing.assert_array_equal(np.concatenate([place.rows(part) for part in np.split(run, [3, 4, 11])]), whole)


def test_memory_does_not_grow_with_the_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "BLOCK_VALUES", 10_000)
    monkeypatch.setattr(matrices, "BLOCK_ROWS", 1_000)
    monkeypatch.setattr(pieces, "PIECE_VALUES", 20_000)
    monkeypatch.setattr(first_pass, "HASHED_AT_ONCE", 2_000)
    monkeypatch.setattr(second_pass, "BUCKET_BYTES", 100_000)
    rng = np.random.default_rng(0)
    peaks = {}
    for cells in (500, 5_000, 20_000):  # the first one loads what is loaded once
        matrix = sp.random(cells, 300, density=0.1, format="csr", random_state=1, dtype=np.float32)
        matrix.data = np.ceil(matrix.data * 9)
        labels = {"gene": np.array(["ctrl", "a", "b"]), "line": np.array(["x", "y"])}
        obs = pd.DataFrame({key: pd.Categorical(rng.choice(names, cells)) for key, names in labels.items()})
        obs.index = [f"cell{i}" for i in range(cells)]
        path = tmp_path / f"{cells}.h5ad"
        ad.AnnData(matrix, obs=obs).write_h5ad(path)
        del matrix, obs
        arguments = {"perturbation_key": "gene", "control": "ctrl", "context_key": "line", "progress": False}
        tracemalloc.start()
        made = prepare([path], tmp_path / f"store{cells}", n_genes=100, **arguments)
        peaks[cells] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made.n_cells == cells
    whole = 20_000 * 30 * 8
    # The labels, a name a cell among them, are written beside the sorting: sometimes both are in memory at once.
    labels = 64 * (20_000 - 5_000)
    assert peaks[20_000] < 1.3 * peaks[5_000] + labels
    assert peaks[20_000] < whole


def write_large(path, cells: int, per_cell: int = 100, genes: int = 2000) -> None:
    """A screen of many cells, its matrix written piece by piece."""
    rng = np.random.default_rng(0)
    labels = {"gene": np.array(["ctrl", "a", "b", "c"]), "line": np.array(["x", "y"])}
    obs = pd.DataFrame({key: pd.Categorical(rng.choice(names, cells)) for key, names in labels.items()})
    obs.index = np.char.add("cell-", np.arange(cells).astype(str))
    ad.AnnData(sp.csr_matrix((cells, genes), dtype=np.float32), obs=obs).write_h5ad(path)
    columns = np.tile(np.arange(per_cell, dtype=np.int32) * (genes // per_cell), 10_000)
    with h5py.File(path, "r+") as file:
        for name in ("data", "indices", "indptr"):
            del file["X"][name]
        file["X/indptr"] = np.arange(cells + 1) * per_cell
        for name, dtype in (("data", "f4"), ("indices", "i4")):
            file["X"].create_dataset(name, (cells * per_cell,), dtype)
        for start in range(0, cells * per_cell, len(columns)):
            file["X/data"][start : start + len(columns)] = rng.integers(1, 200, len(columns))
            file["X/indices"][start : start + len(columns)] = columns


@pytest.mark.slow
def test_the_process_stays_within_its_memory_however_many_cells(tmp_path):
    code = """
import resource, sys
from bionemo.cellsets import prepare
prepare([sys.argv[1]], sys.argv[2], perturbation_key="gene", control="ctrl", context_key="line", n_genes=None,
        progress=False, threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    peaks = []
    for cells in (500_000, 1_500_000):  # enough that both keep the threads and their queue full
        write_large(tmp_path / "s.h5ad", cells)
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "s.h5ad", tmp_path / str(cells)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(done.stdout))
        shutil.rmtree(tmp_path / str(cells))
    print("peak RSS", peaks)  # noqa: T201
    assert max(peaks) < 2e9
    assert peaks[1] < 1.35 * peaks[0]


def test_the_store_does_not_depend_on_the_number_of_threads(store, screen_path, tmp_path, keys, monkeypatch):
    monkeypatch.setattr(matrices, "BLOCK_ROWS", 40)
    monkeypatch.setattr(second_pass, "BUCKET_BYTES", 5_000)
    for threads in (1, 5):
        made = prepare([screen_path], tmp_path / str(threads), n_genes=None, threads=threads, progress=False, **keys)
        assert made.fingerprint == store.fingerprint
    with pytest.raises(InputError, match="threads is 0: it must be at least 1"):
        prepare([screen_path], tmp_path / "none", threads=0, progress=False, **keys)
    chosen = [
        prepare([screen_path], tmp_path / f"g{threads}", n_genes=7, threads=threads, progress=False, **keys).fingerprint
        for threads in (1, 5)
    ]
    assert chosen[0] == chosen[1]


def test_protocols_know_their_columns(screen, tmp_path, altered):
    def tahoe(data):
        data.obs = pd.DataFrame(
            {
                "drugname_drugconc": data.obs["gene"].astype(object).replace({"ctrl": "[('DMSO_TF', 0.0, 'uM')]"}),
                "cell_line": data.obs["line"],
                "plate": data.obs["plate"],
            }
        )

    path = altered(tahoe)
    made = prepare([path], tmp_path / "s", protocol="tahoe100m", progress=False)
    assert made.control == "[('DMSO_TF', 0.0, 'uM')]"
    assert made.keys == {"perturbation": "drugname_drugconc", "context": "cell_line", "batch": "plate"}
    assert made.manifest["protocol"] == "tahoe100m"
    other = prepare([path], tmp_path / "t", protocol="tahoe100m", context_key="plate", control="TP53", progress=False)
    assert (other.keys["context"], other.control) == ("plate", "TP53")
    own = tmp_path / "own.toml"
    own.write_text(
        'perturbation_key = "drugname_drugconc"\ncontrol = "TP53"\ncontext_key = "plate"\nhvg_from = "all"\n'
        "target_sum = 5000\n"
    )
    of_file = prepare([path], tmp_path / "u", protocol=own, progress=False)
    assert (of_file.control, of_file.target_sum, of_file.manifest["protocol"]) == ("TP53", 5000, "own")


def test_protocols_are_named_and_what_is_missing_too(screen_path, tmp_path):
    with pytest.raises(InputError, match=r"There is no protocol 'tahoe': did you mean 'tahoe100m' .*replogle-nadig"):
        prepare([screen_path], tmp_path / "s", protocol="tahoe")
    with pytest.raises(InputError, match="Nothing says what the context key and the control label is"):
        prepare([screen_path], tmp_path / "s", perturbation_key="gene")
    with pytest.raises(InputError, match="no obs column 'cytokine'"):
        prepare([screen_path], tmp_path / "s", protocol="parse10m-pbmc", progress=False)
