import os

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bionemo.cellsets import CellStore, prepare
from bionemo.screens import InputError


def expression(store: CellStore, names) -> np.ndarray:
    """Read a store in the order of `names`."""
    return store.read(pd.Index(store.obs().index).get_indexer(list(names)))


@pytest.mark.parametrize("convert", [sp.csc_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int64)])
def test_layouts_of_x_make_the_same_store(store, altered, tmp_path, keys, convert):
    path = altered(lambda data: setattr(data, "X", convert(data.X)))
    assert prepare([path], tmp_path / "s", n_genes=None, progress=False, **keys).fingerprint == store.fingerprint


def test_a_layer_is_read_instead_of_x(store, altered, tmp_path, keys):
    def move(data):
        data.layers["raw_counts"] = data.X
        data.X = np.log1p(data.X)

    path = altered(move)
    made = prepare([path], tmp_path / "s", layer="raw_counts", n_genes=None, progress=False, **keys)
    assert made.fingerprint == store.fingerprint
    with pytest.raises(InputError, match=r"no layer 'raw_count': did you mean 'raw_counts'"):
        prepare([path], tmp_path / "t", layer="raw_count", progress=False, **keys)


def test_files_are_put_together_whatever_their_gene_order(store, altered, screen, tmp_path, keys):
    first, second = tmp_path / "1.h5ad", tmp_path / "2.h5ad"
    screen[:100].write_h5ad(first)
    screen[100:, ::-1].write_h5ad(second)
    made = prepare([first, second], tmp_path / "s", n_genes=None, progress=False, **keys)
    assert made.fingerprint == store.fingerprint
    assert [entry["name"] for entry in made.manifest["inputs"]] == ["1.h5ad", "2.h5ad"]
    screen[100:, :27].write_h5ad(second)
    with pytest.raises(InputError, match=r"2\.h5ad lacks 3 genes of .*1\.h5ad and has 0 that are not in it"):
        prepare([first, second], tmp_path / "t", progress=False, **keys)


def test_log1p_data_are_read_unchanged(altered, screen, tmp_path, keys):
    values = np.log1p(screen.X.toarray().astype(np.float64) / 3)
    path = altered(lambda data: setattr(data, "X", sp.csr_matrix(values)))
    made = prepare([path], tmp_path / "s", n_genes=None, already_log1p=True, progress=False, **keys)
    assert (made.kind, made.data.dtype) == ("log1p", np.float32)
    np.testing.assert_array_equal(expression(made, screen.obs_names), values.astype(np.float32))
    assert np.isnan(made.library_size).all()


@pytest.mark.parametrize("batch_key", [None, "line"])
def test_batch_key_may_be_left_out_or_shared(screen_path, tmp_path, keys, batch_key):
    made = prepare([screen_path], tmp_path / "s", progress=False, **keys | {"batch_key": batch_key})
    if batch_key is None:
        assert len(made.batches) == 0
        assert (made.runs["batch"] == -1).all()
    else:
        np.testing.assert_array_equal(made.runs["batch"], made.runs["context"])


def test_gene_selection_keeps_library_sizes_and_ignores_held_out_cells(
    store, screen, altered, screen_path, tmp_path, keys
):
    split = tmp_path / "split.toml"
    split.write_text('[zeroshot]\n"B" = "test"\n[fewshot."A"]\nval = ["TP53"]\n')
    made = prepare([screen_path], tmp_path / "s", n_genes=12, split=split, progress=False, **keys)
    assert made.n_genes == 12
    assert "training cells" in made.manifest["gene_selection"]["source"]
    np.testing.assert_array_equal(made.library_size, store.library_size)
    columns = pd.Index(store.genes).get_indexer(pd.Index(made.genes))
    assert (np.diff(columns) > 0).all()
    np.testing.assert_array_equal(expression(made, screen.obs_names), expression(store, screen.obs_names)[:, columns])

    def disturb_held_out(data):
        held_out = (data.obs["line"] == "B") | ((data.obs["line"] == "A") & (data.obs["gene"] == "TP53"))
        counts = data.X.toarray()
        counts[held_out.to_numpy(), :15] += 500
        data.X = sp.csr_matrix(counts)

    disturbed = altered(disturb_held_out)
    same = prepare([disturbed], tmp_path / "t", n_genes=12, split=split, progress=False, **keys)
    np.testing.assert_array_equal(same.genes, made.genes)
    other = prepare([disturbed], tmp_path / "u", n_genes=12, progress=False, **keys)
    assert other.genes.tolist() != made.genes.tolist()


def test_more_genes_than_there_are_keeps_all(screen_path, tmp_path, keys):
    assert prepare([screen_path], tmp_path / "s", progress=False, **keys).n_genes == 30


def put(row, column, value):
    def change(data):
        counts = data.X.toarray()
        counts[row, column] = value
        data.X = sp.csr_matrix(counts)

    return change


def relabel(column, old, new):
    return lambda data: data.obs.__setitem__(column, data.obs[column].astype(object).replace({old: new}))


def blank(column):
    def change(data):
        data.obs[column] = data.obs[column].astype(object)
        data.obs.loc["cell7", column] = np.nan

    return change


def same_name(data):
    data.var_names = ["g0", "g0", *data.var_names[2:]]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (put(4, 2, np.nan), {}, "X of .*altered.h5ad holds nan at cell 'cell4', gene 'g2'"),
        (put(4, 2, np.inf), {}, "holds inf at cell 'cell4', gene 'g2'"),
        (put(4, 2, -1), {}, "holds -1 at cell 'cell4', gene 'g2': expression cannot be negative"),
        (put(4, 2, 0.5), {}, "holds 0.5 at cell 'cell4', gene 'g2': that is no count.*--layer.*--log1p"),
        (put(4, 2, 5e9), {}, "holds 5e\\+09 at cell 'cell4'"),
        (put(4, 2, 40), {"already_log1p": True}, "that is no log1p value, so leave out --log1p"),
        (relabel("gene", "ctrl", "NT"), {}, "control label 'ctrl' in obs column 'gene': use one of 'MYC', 'NT'"),
        (relabel("gene", "ctrl", "CTRL"), {}, "did you mean 'CTRL'"),
        (blank("plate"), {}, "obs column 'plate' .* is empty for 1 cells, the first is 'cell7'"),
        (lambda d: d.obs.pop("line"), {}, "no obs column 'line': use one of|no obs column 'line': did you mean"),
        (same_name, {}, "names 1 genes more than once \\('g0'\\)"),
        (lambda d: None, {"control": "MYC"}, "2 of the contexts .* 'line' have no 'MYC' cells \\('A', 'B'\\)"),
        (lambda d: None, {"context_key": "lines"}, "no obs column 'lines': did you mean 'line'"),
        (lambda d: None, {"n_genes": 0}, "n_genes is 0"),
        (lambda d: None, {"target_sum": 0.0}, "target_sum is 0"),
        (lambda d: d.X.data.fill(0), {}, "holds zeros only"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_leaves_nothing(altered, tmp_path, keys, change, arguments, message):
    path = altered(change)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match=message) as raised:
        prepare([path], tmp_path / "s", progress=False, **keys | arguments)
    assert "\n" not in str(raised.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_files_that_are_none(tmp_path, keys):
    with pytest.raises(InputError, match="There is no file"):
        prepare([tmp_path / "none.h5ad"], tmp_path / "s", progress=False, **keys)
    (tmp_path / "text.h5ad").write_text("hello")
    with pytest.raises(InputError, match=r"text\.h5ad is neither an \.h5ad file nor a \.zarr directory"):
        prepare([tmp_path / "text.h5ad"], tmp_path / "s", progress=False, **keys)
    (tmp_path / "loop.h5ad").symlink_to(tmp_path / "loop.h5ad")
    with pytest.raises(InputError, match=r"There is no file .*loop\.h5ad"):
        prepare([tmp_path / "loop.h5ad"], tmp_path / "s", progress=False, **keys)
    with pytest.raises(InputError, match="No input was given"):
        prepare([], tmp_path / "s", progress=False, **keys)


def test_an_input_given_twice_is_refused_whatever_its_names(screen, screen_path, tmp_path, keys):
    again = {name: tmp_path / f"{name}.h5ad" for name in ("hard", "soft", "copy", "shuffled")}
    os.link(screen_path, again["hard"])
    again["soft"].symlink_to(screen_path)
    for name in (None, "hard", "soft"):
        with pytest.raises(InputError, match="are the same input: name it once"):
            prepare([screen_path, str(again.get(name, screen_path))], tmp_path / "s", progress=False, **keys)
    # Copies, and other cuts of the same cells, are found by the cells' names and values.
    again["copy"].write_bytes(screen_path.read_bytes())
    screen[200:90:-1, ::-1].copy().write_h5ad(again["shuffled"])
    for name, count in (("copy", 314), ("shuffled", 110)):
        with pytest.raises(InputError, match=rf"{name}.h5ad holds {count} of the 315 cells of .*screen.h5ad again"):
            prepare([screen_path, again[name]], tmp_path / "s", progress=False, **keys)


def test_paths_may_be_text(screen_path, tmp_path, keys):
    store = str(tmp_path / "s")
    prepare([str(screen_path)], store, progress=False, **keys)
    made = prepare([f"{screen_path}"], f"{store}/", overwrite=True, progress=False, **keys)
    assert CellStore.open(store).fingerprint == made.fingerprint


def test_genes_by_name_are_kept_in_their_order_and_change_no_size_of_a_cell(screen_path, tmp_path, keys):
    whole = prepare([screen_path], tmp_path / "whole", n_genes=None, progress=False, **keys)
    names = [str(name) for name in whole.genes[[9, 5, 21]]]
    part = prepare([screen_path], tmp_path / "part", gene_names=names, progress=False, **keys)
    assert list(part.genes) == names
    assert part.manifest["gene_selection"]["given"]
    rows = np.arange(whole.n_cells)
    np.testing.assert_array_equal(part.read(rows), whole.read(rows)[:, [9, 5, 21]])
    np.testing.assert_array_equal(part.library_size, whole.library_size)
    part.verify()
    with pytest.raises(InputError, match=r"lack 1 of the 2 genes that were asked for \('absent'\)"):
        prepare([screen_path], tmp_path / "s", gene_names=[names[0], "absent"], progress=False, **keys)


def test_what_is_there_is_kept_unless_told(screen_path, tmp_path, keys):
    made = prepare([screen_path], tmp_path / "s", progress=False, **keys)
    with pytest.raises(InputError, match="exists: remove it, choose another directory"):
        prepare([screen_path], tmp_path / "s", progress=False, **keys)
    again = prepare([screen_path], tmp_path / "s", n_genes=5, overwrite=True, progress=False, **keys)
    assert (made.n_genes, again.n_genes) == (30, 5)
    assert os.listdir(tmp_path) == ["s"]
    (tmp_path / "thesis").mkdir()
    with pytest.raises(InputError, match="is not a cell store, so it is not overwritten"):
        prepare([screen_path], tmp_path / "thesis", overwrite=True, progress=False, **keys)


@pytest.mark.parametrize(
    ("name", "arguments", "sizes"),
    [
        (
            "gbm_lemur.h5ad",
            {"perturbation_key": "condition", "control": "ctrl", "context_key": "patient_id"},
            (5000, 300, 20),
        ),
        (
            "papalexi_lowmoi_sceptre.h5ad",
            {"perturbation_key": "target", "control": "non-targeting", "context_key": "batch", "batch_key": "batch"},
            (16093, 299, 84),
        ),
        (
            "perturbench_devel.h5ad",
            {"perturbation_key": "condition", "control": "control", "context_key": "cell_type", "already_log1p": True},
            (5961, 500, 72),
        ),
    ],
)  # fmt: skip
def test_real_screens(real_data, tmp_path, name, arguments, sizes):
    path = real_data(name)
    made = prepare([path], tmp_path / "s", n_genes=None, progress=False, **arguments)
    assert (made.n_cells, made.n_genes, len(made.runs)) == sizes
    data = ad.read_h5ad(path)
    raw = data[made.obs().index].X.toarray() if data.obs_names.is_unique else None
    if raw is not None:
        np.testing.assert_array_equal(made.counts(0, made.n_cells).toarray(), raw.astype(np.float32))
    read = made.read(np.arange(made.n_cells))
    assert np.isfinite(read).all()
    if made.kind == "counts":
        totals = np.expm1(read.astype(np.float64)).sum(axis=1)
        np.testing.assert_allclose(totals, 10_000, rtol=1e-4)
