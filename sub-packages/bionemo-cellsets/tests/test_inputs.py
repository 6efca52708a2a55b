"""Every layout that expression and labels come in makes the same store, in one block or in many."""

import itertools
import shutil
from collections import Counter

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from bionemo.cellsets import prepare
from bionemo.cellsets.inputs import matrices, pieces
from bionemo.cellsets.inputs.conditions import observed_conditions
from bionemo.cellsets.preparation import build, first_pass, second_pass
from bionemo.screens import InputError

ALL = {"n_genes": None, "progress": False}


@pytest.fixture
def in_small_pieces(monkeypatch):
    """Make every limit so small that the screen is read, spilled and sorted in many pieces."""
    monkeypatch.setattr(matrices, "BLOCK_VALUES", 200)
    monkeypatch.setattr(matrices, "BLOCK_ROWS", 23)
    monkeypatch.setattr(pieces, "PIECE_VALUES", 500)
    monkeypatch.setattr(first_pass, "HASHED_AT_ONCE", 50)
    monkeypatch.setattr(second_pass, "BUCKET_BYTES", 5_000)


@pytest.mark.parametrize("convert", [sp.csr_matrix, sp.csc_matrix, lambda x: x.toarray()])
@pytest.mark.parametrize("zarr_format", [None, 2, 3])
def test_many_blocks_and_files_make_the_same_store(
    store, screen, tmp_path, keys, in_small_pieces, convert, zarr_format
):
    paths = [tmp_path / f"{i}.{'zarr' if zarr_format else 'h5ad'}" for i in range(2)]
    for path, part in zip(paths, (screen[:100], screen[100:]), strict=True):
        part = part.copy()
        part.X = convert(part.X)
        with ad.settings.override(zarr_write_format=zarr_format or 2):
            (part.write_zarr if zarr_format else part.write_h5ad)(path)
    made = prepare(paths, tmp_path / "s", **ALL, **keys)
    assert made.fingerprint == store.fingerprint
    pd.testing.assert_frame_equal(made.obs(), store.obs())
    assert sorted(entry.name for entry in made.path.iterdir()) == sorted(entry.name for entry in store.path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "chunks": (100,)},
        {"compression": "lzf"},
        {"chunks": (64,)},
        {"dtype": ">i4"},
        {"chunks": (64,), "fletcher32": True},
    ],
)
def test_packed_matrices_make_the_same_store(store, screen, tmp_path, keys, in_small_pieces, options):
    screen.write_h5ad(tmp_path / "s.h5ad")
    with h5py.File(tmp_path / "s.h5ad", "r+") as file:
        for name in ("data", "indices"):
            array = file["X"][name][:]
            del file["X"][name]
            file["X"].create_dataset(name, data=array, **options)
    assert prepare([tmp_path / "s.h5ad"], tmp_path / "s", **ALL, **keys).fingerprint == store.fingerprint


def test_unusual_types_and_orders_of_values_make_the_same_store(store, screen, tmp_path, keys):
    shuffled = screen.X.copy()
    for begin, end in itertools.pairwise(shuffled.indptr):
        shuffled.indices[begin:end] = shuffled.indices[begin:end][::-1].copy()
        shuffled.data[begin:end] = shuffled.data[begin:end][::-1].copy()
    zeros = screen.X.copy()
    zeros.data = np.append(zeros.data, 0)
    zeros.indices, zeros.indptr = np.append(zeros.indices, 29), zeros.indptr + (np.arange(316) == 315)
    whole = {"uint32": np.uint32, "uint64": np.uint64, "int64": np.int64}
    matrices = {name: screen.X.astype(dtype) for name, dtype in whole.items()} | {"shuffled": shuffled}
    for name, matrix in (matrices | {"zeros": zeros}).items():
        data = screen.copy()
        data.X = matrix
        data.write_h5ad(tmp_path / f"{name}.h5ad")
        assert prepare([tmp_path / f"{name}.h5ad"], tmp_path / name, **ALL, **keys).fingerprint == store.fingerprint


def test_raw_and_obsm_matrices_are_read_with_their_genes(store, altered, screen, tmp_path, keys):
    def rearrange(data):
        data.raw = data
        data.var["highly_variable"] = np.arange(30) % 3 == 0
        data.obsm["X_hvg"] = np.log1p(data.X.toarray()[:, ::3])
        data.obsm["X_pca"] = np.zeros((len(data), 4))
        data.X = sp.csr_matrix(data.shape)

    path = altered(rearrange)
    assert prepare([path], tmp_path / "raw", layer="raw/X", **ALL, **keys).fingerprint == store.fingerprint
    made = prepare([path], tmp_path / "hvg", layer="obsm/X_hvg", already_log1p=True, **ALL, **keys)
    assert made.genes.tolist() == screen.var_names[::3].tolist()
    np.testing.assert_allclose(
        made.read(pd.Index(made.obs().index).get_indexer(screen.obs_names)), np.log1p(screen.X.toarray()[:, ::3])
    )
    with pytest.raises(InputError, match=r"obsm/X_pca of .* has shape \(315, 4\), not 315 cells x 30 genes"):
        prepare([path], tmp_path / "pca", layer="obsm/X_pca", **ALL, **keys)
    with pytest.raises(InputError, match="no layer 'obsm/X_hgv': did you mean 'obsm/X_hvg'"):
        prepare([path], tmp_path / "none", layer="obsm/X_hgv", **ALL, **keys)


def test_labels_come_in_every_encoding(store, altered, tmp_path, keys):
    def encode(data):
        data.obs["line"] = data.obs["line"].astype("string")
        data.obs["gene"] = data.obs["gene"].astype(object)
        data.obs["number"] = np.where(data.obs["plate"] == "p1", 1, 2)
        data.obs["flag"] = pd.array(data.obs["plate"] == "p1", dtype="boolean")
        data.obs["share"] = np.where(data.obs["plate"] == "p1", 0.5, 1.0)
        data.strings_to_categoricals = lambda *args, **kwargs: None

    with ad.settings.override(allow_write_nullable_strings=True):
        path = altered(encode)
    with h5py.File(path) as file:
        assert "codes" not in file["obs/line"]
    assert prepare([path], tmp_path / "s", **ALL, **keys).fingerprint == store.fingerprint
    for key, labels in {"number": ["1", "2"], "flag": ["False", "True"], "share": ["0.5", "1.0"]}.items():
        made = prepare([path], tmp_path / key, **ALL, **keys | {"batch_key": key})
        assert made.batches.tolist() == labels


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_several_values_of_one_gene_in_a_cell_are_refused(altered, tmp_path, keys, request, small, layout):
    if small:
        request.getfixturevalue("in_small_pieces")

    def repeat(data):
        cell = data.X[200]
        twice = sp.csr_matrix((cell.data.repeat(2), cell.indices.repeat(2), cell.indptr * 2), shape=cell.shape)
        twice.indices[:] = np.roll(twice.indices, 1)
        data.X = sp.vstack([data.X[:200], twice, data.X[201:]], format="csr").asformat(layout)

    with pytest.raises(InputError, match=r"X of .* holds several values of gene 'g\d+' in cell 'cell200': keep one"):
        prepare([altered(repeat)], tmp_path / "s", **ALL, **keys)


@pytest.mark.parametrize("kind", ["fixed", "variable"])
def test_names_that_are_not_utf_8_are_found_in_the_first_pass(altered, screen_path, tmp_path, keys, kind, monkeypatch):
    path = altered(lambda data: None)
    with h5py.File(path, "r+") as file:
        names = file["obs/_index"][:].tolist()
        names[7] = b"caf\xe9"
        dtype = "S10" if kind == "fixed" else h5py.string_dtype("ascii")
        attributes = dict(file["obs/_index"].attrs)
        del file["obs/_index"]
        file["obs"].create_dataset("_index", data=names, dtype=dtype).attrs.update(attributes)
    monkeypatch.setattr(build._Sorter, "sort", None)  # the second pass
    with pytest.raises(InputError, match=r"The name of cell number 7 of .* is not UTF-8 \(.*0xe9.*\): write the names"):
        prepare([path], tmp_path / "s", **ALL, **keys)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["altered.h5ad"]


def test_names_beyond_ascii_are_kept(altered, tmp_path, keys):
    path = altered(lambda data: setattr(data, "obs_names", [f"Zelle-ä{i}-细胞" for i in range(data.n_obs)]))
    assert "Zelle-ä12-细胞" in prepare([path], tmp_path / "s", **ALL, **keys).obs().index


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
@pytest.mark.parametrize("in_uns", [True, False])
def test_files_from_before_anndata_0_7_are_read(store, screen, tmp_path, keys, in_uns):
    """Tables were compound arrays then, categories lay in uns, and a matrix was sparse by `h5sparse_format`."""
    columns = {"index": screen.obs_names.to_numpy().astype("S8")}
    for name in ("line", "gene", "plate"):
        column = screen.obs[name].cat
        columns[name] = column.codes.to_numpy() if in_uns else screen.obs[name].to_numpy().astype("S5")
    obs = np.empty(screen.n_obs, dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        obs[name] = values
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["obs"] = obs
        file["var"] = np.array([(name.encode(),) for name in screen.var_names], dtype=[("index", "S4")])
        if in_uns:
            for name in ("line", "gene", "plate"):
                file[f"uns/{name}_categories"] = screen.obs[name].cat.categories.to_numpy().astype("S5")
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", screen.shape
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(screen.X, part)
    made = prepare([tmp_path / "old.h5ad"], tmp_path / "s", **ALL, **keys)
    assert made.fingerprint == store.fingerprint
    assert made.obs().equals(store.obs())


def test_categoricals_of_old_files_are_read(store, screen_path, tmp_path, keys):
    old = tmp_path / "old.h5ad"
    old.write_bytes(screen_path.read_bytes())
    with h5py.File(old, "r+") as file:
        obs = file["obs"]
        obs.create_group("__categories")
        for name in ("line", "gene", "plate"):
            codes, categories = obs[name]["codes"][:], obs[name]["categories"][:]
            del obs[name]
            obs["__categories"][name] = categories
            obs[name] = codes
            obs[name].attrs["categories"] = obs["__categories"][name].ref
    assert prepare([old], tmp_path / "s", **ALL, **keys).fingerprint == store.fingerprint


def test_several_columns_make_one_context(screen_path, tmp_path, keys, altered):
    arguments = keys | {"context_key": "line+plate", "batch_key": None}
    with pytest.raises(InputError, match=r"contexts in obs column 'line\+plate' have no 'ctrl' cells \('B\+p2'\)"):
        prepare([screen_path], tmp_path / "s", **ALL, **arguments)
    path = altered(lambda data: data._inplace_subset_obs(~((data.obs.line == "B") & (data.obs.plate == "p2"))))
    made = prepare([path], tmp_path / "s", **ALL, **arguments)
    assert made.contexts.tolist() == ["A+p1", "A+p2", "B+p1", "C.2+p1"]
    assert made.keys["context"] == "line+plate"


def test_differing_genes_are_joined_on_request_only(screen, tmp_path, keys):
    first, second = tmp_path / "1.h5ad", tmp_path / "2.h5ad"
    screen[:, :25].write_h5ad(first)
    other = screen[:, 29:9:-1].copy()
    other.obs_names = [f"again{name}" for name in other.obs_names]
    other.write_h5ad(second)
    for genes in ("intersection", "union"):
        made = prepare([first, second], tmp_path / genes, genes=genes, target_sum=1e6, **ALL, **keys)
        wanted = screen.var_names[10:25] if genes == "intersection" else [*screen.var_names[:25], *other.var_names[:5]]
        assert made.genes.tolist() == list(wanted)
        counts = pd.DataFrame(made.counts(0, made.n_cells).toarray(), index=made.obs().index, columns=made.genes)
        whole = pd.concat([part.to_df() for part in (screen[:, :25], other)]).fillna(0)
        np.testing.assert_array_equal(counts, whole.loc[counts.index, made.genes])
        # A cell's library is all that its file counted, whichever genes are kept.
        np.testing.assert_array_equal(made.library_size, whole.loc[counts.index].sum(axis=1))
    with pytest.raises(InputError, match=r"lacks 10 genes of .* and has 5 that are not in it: .* --genes intersection"):
        prepare([first, second], tmp_path / "same", **ALL, **keys)
    with pytest.raises(InputError, match="genes is 'both': choose one of same, intersection, union"):
        prepare([first, second], tmp_path / "both", genes="both", **ALL, **keys)


@pytest.mark.parametrize("small", [False, True])
def test_cells_named_twice_in_a_file_are_refused(altered, screen, tmp_path, keys, request, small):
    if small:
        request.getfixturevalue("in_small_pieces")

    def rename(data):
        data.obs_names = ["cell1" if name == "cell300" else name for name in data.obs_names]

    path = altered(rename)
    with pytest.raises(InputError, match=r"names cells more than once \('cell1' among them\): drop the copies"):
        prepare([path], tmp_path / "s", **ALL, **keys)
    # Plates are often numbered alike: two files may share names.
    screen.write_h5ad(tmp_path / "1.h5ad")
    altered(lambda data: setattr(data, "X", data.X[::-1]), "2.h5ad")
    assert prepare([tmp_path / "1.h5ad", tmp_path / "2.h5ad"], tmp_path / "s", **ALL, **keys).n_cells == 630


def test_labels_that_look_alike_are_pointed_out(altered, screen_path, tmp_path, keys, caplog):
    def rename(data):
        data.obs_names = [f"again{name}" for name in data.obs_names]
        data.obs["gene"] = data.obs["gene"].astype(object).replace({"TP53": "tp53 "})

    path = altered(rename)
    made = prepare([screen_path, path], tmp_path / "s", **ALL, **keys)
    (notice,) = caplog.messages
    assert notice.startswith("'TP53', 'tp53 ' in obs column 'gene'")
    assert made.perturbations.tolist() == ["MYC", "TP53", "ctrl", "rare", "tp53 "]


def test_a_label_that_is_the_control_label_but_for_capitals_is_refused(altered, tmp_path, keys):
    def shout(data):
        data.obs["gene"] = data.obs["gene"].astype(object)
        data.obs.loc[data.obs_names[data.obs["gene"] == "ctrl"][:3], "gene"] = "CTRL"

    with pytest.raises(InputError, match=r"'CTRL' in obs column 'gene' of .* is the control label 'ctrl' but for"):
        prepare([altered(shout)], tmp_path / "s", **ALL, **keys)


def test_doses_have_the_shortest_name_and_no_two_labels_are_joined_to_one(altered, tmp_path, keys):
    def with_dose(data):
        data.obs["dose"] = np.full(data.n_obs, 0.1, dtype=np.float32)
        data.obs["dose_of_few"] = data.obs["dose"].astype("category")

    path = altered(with_dose)
    for column in ("dose", "dose_of_few"):
        joined = keys | {"perturbation_key": f"gene+{column}", "control": "ctrl+0.1"}
        store = prepare([path], tmp_path / column, **ALL, **joined)
        assert store.perturbations.tolist() == ["MYC+0.1", "TP53+0.1", "ctrl+0.1", "rare+0.1"]

    def with_plus(gene, line):
        def change(data):
            data.obs["gene"] = data.obs["gene"].astype(object).replace({"TP53": gene})
            data.obs["other"] = np.where(data.obs["gene"] == gene, line, "x")

        return change

    # One file has (A+B, C) and another (A, B+C).
    paths = [tmp_path / name for name in ("1.h5ad", "2.h5ad")]
    for place, names in zip(paths, (("A+B", "C"), ("A", "B+C")), strict=True):
        altered(with_plus(*names)).rename(place)
    with pytest.raises(InputError, match=r"join \('A\+B', 'C'\) and \('A', 'B\+C'\) to the same label 'A\+B\+C'"):
        prepare(paths, tmp_path / "s", **ALL, **keys | {"perturbation_key": "gene+other", "control": "ctrl+x"})


@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize(
    ("array", "value", "message"),
    [("indices", 10_000, "an index is outside"), ("indptr", 10**9, "pointers"), ("indptr", -1, "pointers")],
)
def test_a_damaged_matrix_is_refused(altered, tmp_path, keys, layout, array, value, message):
    path = altered(lambda data: setattr(data, "X", data.X.asformat(layout)))
    with h5py.File(path, "r+") as file:
        file[f"X/{array}"][3] = value
    with pytest.raises(InputError, match=f"X of .* is a damaged matrix .*{message}.*: write the file again"):
        prepare([path], tmp_path / "s", **ALL, **keys)


@pytest.mark.parametrize(
    ("place", "name", "value"), [("obs", "column-order", 5), ("obs", "_index", "gone"), ("X", "shape", 3)]
)
def test_a_file_that_says_nonsense_of_itself_is_refused(screen_path, tmp_path, place, name, value):
    path = tmp_path / "nonsense.h5ad"
    shutil.copy(screen_path, path)
    with h5py.File(path, "a") as file:
        del file[place].attrs[name]
        file[place].attrs[name] = value
    with pytest.raises(InputError, match="cannot be read"):
        observed_conditions([path], perturbation_key="gene", context_key="line")


def test_a_directory_that_is_no_anndata_is_refused(tmp_path, keys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is a directory but no zarr"):
        prepare([tmp_path / "empty"], tmp_path / "s", **ALL, **keys)
    zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    with pytest.raises(InputError, match=r"group\.zarr has no 'obs' table"):
        prepare([tmp_path / "group.zarr"], tmp_path / "s", **ALL, **keys)


def test_an_unknown_layer_of_a_file_without_any_is_said_so(screen_path, tmp_path, keys):
    with pytest.raises(InputError, match=r"no layer 'counts': there are none to choose from$"):
        prepare([screen_path], tmp_path / "store", layer="counts", progress=False, **keys)


def test_conditions_are_counted_without_a_store(screen, screen_path, altered):
    found = observed_conditions([screen_path], perturbation_key="gene", context_key="line")
    assert found == Counter(zip(screen.obs["line"], screen.obs["gene"], strict=True))
    joined = observed_conditions([screen_path, screen_path], perturbation_key="gene", context_key="line+plate")
    assert joined["A+p1", "TP53"] == 2 * ((screen.obs == ["A", "TP53", "p1"]).all(axis=1)).sum()
    unnamed = altered(lambda data: data.obs.__setitem__("line", data.obs["line"].astype(object).replace({"A": " "})))
    with pytest.raises(InputError, match=r"obs column 'line' of .* is empty for "):
        observed_conditions([unnamed], perturbation_key="gene", context_key="line")
    with pytest.raises(InputError, match="no obs column 'cell_line'"):
        observed_conditions([screen_path], perturbation_key="gene", context_key="cell_line")
