import contextlib
import json
import pickle
import shutil
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bionemo.cellsets import CellStore, describe, prepare
from bionemo.screens import InputError
from bionemo.screens.controls import control_parts


def normalised(data: ad.AnnData, target_sum: float = 10_000.0) -> np.ndarray:
    data = data.copy()
    sc.pp.normalize_total(data, target_sum=target_sum)
    sc.pp.log1p(data)
    return data.X.toarray()


def copy_of(store, tmp_path) -> CellStore:
    shutil.copytree(store.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_rows_are_the_input_normalised(store, screen):
    wanted = normalised(screen[store.obs().index])
    np.testing.assert_allclose(store.read(np.arange(store.n_cells)), wanted, rtol=2e-6)


def test_counts_are_never_clipped(store, screen):
    assert store.data.dtype == np.uint32
    np.testing.assert_array_equal(
        store.counts(0, store.n_cells).toarray(), screen[store.obs().index].X.toarray().astype(np.uint32)
    )
    np.testing.assert_array_equal(store.library_size, np.asarray(screen[store.obs().index].X.sum(axis=1)).ravel())


def test_runs_are_sorted_and_name_their_cells(store, screen):
    obs = store.obs()
    assert sorted(obs.index) == sorted(screen.obs_names)
    runs = store.runs
    assert runs.tolist() == sorted(runs.tolist())
    for run in runs:
        lines = obs.iloc[run["start"] : run["start"] + run["length"]]
        labels = screen.obs.loc[lines.index]
        assert set(labels["line"]) == set(lines["context"]) == {store.contexts[run["context"]]}
        assert set(labels["gene"]) == set(lines["perturbation"]) == {store.perturbations[run["perturbation"]]}
        assert set(labels["plate"]) == set(lines["batch"]) == {store.batches[run["batch"]]}
        is_control = set(lines["perturbation"]) == {"ctrl"}
        assert set(control_parts(lines.index)) == {run["control_part"]} if is_control else run["control_part"] == 0
    # Inside a run the order is not the file's.
    first = [int(name[4:]) for name in obs.index[: runs["length"][0]]]
    assert first != sorted(first)


def test_read_takes_any_shape_and_masks(store):
    rows = np.array([[3, -1, 4], [0, 300, 3]])
    out = np.full((2, 3, store.n_genes), 9, dtype=np.float32)
    assert store.read(rows, out) is out
    assert not out[0, 1].any()
    np.testing.assert_array_equal(out[0, 0], out[1, 2])
    np.testing.assert_array_equal(out[1, 1], store.read(np.array([300]))[0])
    with pytest.raises(IndexError, match=r"\[-1, 315\)"):
        store.read(np.array([315]))
    with pytest.raises(ValueError, match="out must be"):
        store.read(rows, out.astype(np.float64))


def test_zero_cell_reads_as_zeros(store):
    row = int(np.flatnonzero(store.obs().index == "cell5")[0])
    assert store.library_size[row] == 0
    assert not store.read(np.array([row])).any()


def test_opens_as_scdl_archive(store, tmp_path):
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset

    archive = SingleCellMemMapDataset(str(copy_of(store, tmp_path)))
    assert archive.shape() == (store.n_cells, [store.n_genes])
    assert archive.data.dtype == store.data.dtype
    assert archive.col_index.dtype == store.columns.dtype == np.uint16
    assert archive.row_index.dtype == np.uint64
    counts, obs = store.counts(0, store.n_cells), store.obs()
    for row in range(0, store.n_cells, 17):
        (values, columns), genes, labels = archive.get_row(row, return_var_features=True, return_obs_features=True)
        np.testing.assert_array_equal(values, counts[row].data)
        np.testing.assert_array_equal(columns, counts[row].indices)
        np.testing.assert_array_equal(genes[0], store.genes)
        assert labels[0] == obs.index[row]


def test_everything_is_opened_for_reading_only(store):
    for array in (store.data, store.columns, store.row_pointers, store.library_size):
        assert array.mode == "r"
        assert not array.flags.writeable
    assert not store.runs.flags.writeable


def test_pickles_as_its_path(store):
    message = pickle.dumps(store)
    assert len(message) < 1000
    assert pickle.loads(message).fingerprint == store.fingerprint


def test_importing_is_light():
    code = (
        "import sys, bionemo.cellsets; print([m for m in ('torch', 'numba', 'scanpy', 'anndata') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_describe(store):
    seen = describe(store)
    assert (seen.store.n_cells, seen.store.n_genes, len(seen.store.runs)) == (315, 30, 18)
    assert seen.checksums_verified
    assert seen.cells_per_condition == (3, 38.25, 51.5, 59.25, 78)
    rows = {row.context: row for row in seen.by_context}
    assert (rows["A"].cells, rows["A"].controls, rows["A"].perturbations) == (152, 71, 2)
    assert rows["A"].control_parts == tuple(
        np.bincount(control_parts(store.obs().query("context == 'A'").query("perturbation == 'ctrl'").index))
    )
    assert rows["B"].batches_without_controls == 1
    assert rows["C.2"].batches == 1


def test_verify_finds_a_flipped_byte(store, tmp_path):
    path = copy_of(store, tmp_path)
    for name in ("data.npy", "cellsets/library_size.npy", "var_features/dataframe_0.parquet"):
        content = bytearray((path / name).read_bytes())
        content[-8] ^= 1
        (path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"'{name}'.*differs from its checksum"):
            CellStore.open(path, verify=True)
        content[-8] ^= 1
        (path / name).write_bytes(content)
    CellStore.open(path, verify=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: shutil.rmtree(p), "There is no store at"),
        (lambda p: (p / "manifest.json").unlink(), "is not a cell store"),
        (lambda p: (p / "manifest.json").write_text("{"), "is not a cell store's manifest"),
        (lambda p: (p / "data.npy").unlink(), "lacks its file 'data.npy'"),
        (lambda p: (p / "row_ptr.npy").write_bytes(b"1234"), "'row_ptr.npy' .* has 4 bytes where 2528"),
        (lambda p: change_manifest(p, format_version=1), "has the format bionemo-cellsets 1 where"),
        (lambda p: change_manifest(p, target_sum=1.0), "was altered"),
        (lambda p: change_manifest(p, n_cells=3), "was altered"),
        (lambda p: change_manifest(p, n_values=None), "was altered"),
    ],
)
def test_damaged_stores_are_refused(store, tmp_path, damage, message):
    path = copy_of(store, tmp_path)
    damage(path)
    with pytest.raises(InputError, match=message):
        CellStore.open(path)


def change_manifest(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["col_ptr.npy", "row_ptr.npy", "data.npy"]), st.integers(0, 10_000), st.integers(1, 255))
def test_altered_indices_end_in_an_error_not_a_crash(store, tmp_path, name, at, flip):
    path = tmp_path / "fuzzed"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(store.path, path)
    content = bytearray((path / name).read_bytes())
    content[at % len(content)] ^= flip
    (path / name).write_bytes(content)
    with contextlib.suppress(InputError):  # a changed count reads as another number, a changed index is refused
        CellStore.open(path).read(np.arange(store.n_cells))
    with pytest.raises(InputError, match="checksum"):
        CellStore.open(path, verify=True)


def test_equal_inputs_make_equal_stores(store, screen_path, tmp_path, keys):
    again = prepare([screen_path], tmp_path / "again", n_genes=None, progress=False, **keys)
    assert again.fingerprint == store.fingerprint
    other = prepare([screen_path], tmp_path / "other", n_genes=None, target_sum=1e6, progress=False, **keys)
    assert other.fingerprint != store.fingerprint


@pytest.mark.parametrize(("name", "value"), [("col_ptr.npy", 0xFFFF), ("row_ptr.npy", 2**63)])
def test_an_index_out_of_range_names_its_row(store, tmp_path, name, value):
    path = copy_of(store, tmp_path)
    array = np.fromfile(path / name, dtype=store.columns.dtype if name == "col_ptr.npy" else np.uint64)
    array[1] = value
    array.tofile(path / name)
    with pytest.raises(InputError, match=r"Row 0 of the store .* is damaged"):
        CellStore.open(path).read(np.arange(2))
