import shutil

import numpy as np
import pandas as pd
import pytest

from bionemo.cellsets import prepare
from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset
from bionemo.screens import InputError
from bionemo.screens.controls import control_parts


@pytest.fixture(scope="module")
def archive(screen, tmp_path_factory):
    """The screen as bionemo-scdl writes it: float values, no index of obs or var."""
    path = tmp_path_factory.mktemp("scdl")
    data = screen.copy()
    data.var["symbol"] = data.var_names
    data.var["number"] = np.arange(30)
    data.write_h5ad(path / "screen.h5ad")
    SingleCellMemMapDataset(str(path / "archive"), h5ad_path=str(path / "screen.h5ad"), use_X_not_raw=True).save()
    return path / "archive"


@pytest.mark.parametrize("form", ["frame", "csv", "parquet"])
def test_an_archive_and_a_table_make_the_same_store(store, archive, screen, tmp_path, keys, form):
    obs = {"frame": screen.obs, "csv": tmp_path / "obs.csv", "parquet": tmp_path / "obs.parquet"}[form]
    if form != "frame":
        getattr(screen.obs, f"to_{form}")(obs)
    made = prepare([archive], tmp_path / "s", obs=obs, gene_column="symbol", n_genes=None, progress=False, **keys)
    assert made.fingerprint == store.fingerprint
    pd.testing.assert_frame_equal(made.obs(), store.obs())


def test_the_archives_own_features_serve_as_a_table(store, archive, screen, tmp_path, keys):
    made = prepare([archive], tmp_path / "s", gene_column="symbol", n_genes=None, progress=False, **keys)
    by_name = made.obs().set_axis(screen.obs_names[made.obs().index.astype(int)])
    pd.testing.assert_frame_equal(by_name.sort_index(), store.obs().sort_index(), check_names=False)
    # Cells are named by their number, and the parts of control cells follow.
    assert_parts_follow_names(made)


def test_a_store_is_an_archive_too(store, tmp_path, keys):
    again = {"perturbation_key": "perturbation", "context_key": "context", "batch_key": "batch"}
    made = prepare([store.path], tmp_path / "s", n_genes=None, progress=False, **keys | again)
    pd.testing.assert_frame_equal(made.obs().reset_index(drop=True), store.obs().reset_index(drop=True))
    assert made.counts(0, 315).sum() == store.counts(0, 315).sum()
    assert_parts_follow_names(made)


def assert_parts_follow_names(store):
    runs, names = np.repeat(store.runs, store.runs["length"]), store.obs().index
    wanted = np.where(runs["perturbation"] == store.control_index, control_parts(names), 0)
    np.testing.assert_array_equal(runs["control_part"], wanted)


def test_what_an_archive_lacks_is_named(archive, screen, tmp_path, keys):
    arguments = {"obs": screen.obs, "gene_column": "symbol", "progress": False, **keys}
    for changes, message in (
        ({"gene_column": None}, r"have several features \('symbol', 'number'\): name one"),
        ({"gene_column": "symbols"}, "have no feature 'symbols': did you mean 'symbol'"),
        ({"obs": screen.obs[:300]}, "has 300 lines where the archive has 315 rows"),
        ({"obs": tmp_path / "none.csv"}, r"none\.csv cannot be read"),
        ({"batch_key": "plates"}, "has no obs column 'plates': did you mean 'plate'"),
    ):
        with pytest.raises(InputError, match=message):
            prepare([archive], tmp_path / "s", **arguments | changes)
    with pytest.raises(InputError, match="is no bionemo-scdl archive, and obs tables"):
        prepare([tmp_path], tmp_path / "s", **arguments)
    with pytest.raises(InputError, match="2 obs tables are given for 1 inputs"):
        prepare([archive], tmp_path / "s", **arguments | {"obs": [screen.obs, screen.obs]})
    with pytest.raises(InputError, match="has no layer 'counts': leave out --layer"):
        prepare([archive], tmp_path / "s", layer="counts", **arguments)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "header.sch").write_text("no header")
    with pytest.raises(InputError, match="cannot be read as a bionemo-scdl archive"):
        prepare([tmp_path], tmp_path / "s", **arguments)


def test_several_archives_have_a_table_each(store, archive, screen, tmp_path, keys):
    arguments = {"gene_column": "symbol", "n_genes": None, "progress": False, **keys}
    shutil.copytree(archive, tmp_path / "again")
    other = screen.obs.set_axis([f"again{name}" for name in screen.obs_names])
    made = prepare([archive, tmp_path / "again"], tmp_path / "s", obs=[screen.obs, other], **arguments)
    assert made.n_cells == 2 * store.n_cells
    assert made.counts(0, 630).sum() == 2 * store.counts(0, 315).sum()
