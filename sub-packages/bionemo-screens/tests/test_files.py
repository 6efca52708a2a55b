"""AnnData files are opened so that only the named file is read and nothing in it is run."""

import gzip
import json
import os
import pickle
import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bionemo.screens.errors import InputError
from bionemo.screens.files import open_anndata_file, read_anndata


@pytest.fixture
def cells():
    obs = pd.DataFrame({"kind": pd.Categorical(list("aabbc"))}, index=[f"c{i}" for i in range(5)])
    return ad.AnnData(sp.csr_matrix(np.eye(5, 4, dtype=np.float32)), obs=obs)


@pytest.fixture
def h5ad(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture(params=[2, 3])
def zarr_directory(cells, tmp_path, request):
    return write_zarr(cells, tmp_path / "cells.zarr", request.param)


def write_zarr(cells, path, zarr_format):
    with ad.settings.override(zarr_write_format=zarr_format):
        cells.write_zarr(path)
    return path


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        read_anndata(path)
    with pytest.raises(InputError):
        open_anndata_file(path)
    return str(caught.value)


def test_a_file_is_read_whatever_its_name(h5ad, cells, tmp_path):
    shutil.copy(h5ad, tmp_path / "cells.data")
    for path in (h5ad, str(h5ad), tmp_path / "cells.data"):
        read = read_anndata(path)
        assert (read.X != cells.X).nnz == 0
        assert read_anndata(path, obs_only=True).obs.equals(read.obs)
        assert read_anndata(path, obs_only=True).X is None


def test_a_zarr_directory_is_read_also_with_a_slash_at_its_end(zarr_directory, cells, tmp_path):
    other = tmp_path / "cells"
    for path in (zarr_directory, f"{zarr_directory}/"):
        assert (read_anndata(path).X != cells.X).nnz == 0
    zarr_directory.rename(other)
    assert read_anndata(other, obs_only=True).obs["kind"].tolist() == list("aabbc")


def test_what_is_no_anndata_file_is_called_by_what_it_is(h5ad, tmp_path):
    packed = tmp_path / "cells.h5ad.gz"
    packed.write_bytes(gzip.compress(h5ad.read_bytes()))
    assert f"{packed} is a packed file: unpack it with gunzip" in refusal(packed)
    (tmp_path / "cells.txt").write_text("a,b\n")
    assert "is neither an .h5ad file nor a .zarr directory" in refusal(tmp_path / "cells.txt")
    (tmp_path / "empty.h5ad").touch()
    assert "is empty" in refusal(tmp_path / "empty.h5ad")
    assert f"There is no file {tmp_path}/none.zarr" in refusal(tmp_path / "none.zarr")
    assert "is a directory but no zarr" in refusal(tmp_path)
    assert "such as 'cells.h5ad'" in refusal(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["matrix"] = np.zeros(3)
    with pytest.raises(InputError, match="has no 'obs' table"):
        read_anndata(tmp_path / "other.h5")


def test_links_to_other_files_are_refused_by_name(h5ad, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["numbers"] = np.zeros((5, 4), dtype=np.float32)
    with h5py.File(h5ad, "r+") as file:
        file["layers/outside"] = h5py.ExternalLink("secret.h5", "/numbers")
    assert f"'layers/outside' of {h5ad} is a link to another file" in refusal(h5ad)


def test_values_kept_in_other_files_are_refused_by_name(h5ad, tmp_path):
    (tmp_path / "raw").write_bytes(bytes(80))
    with h5py.File(h5ad, "r+") as file:
        file.create_dataset("layers/outside", (5, 4), "<f4", external=[(str(tmp_path / "raw"), 0, 80)])
    assert f"'layers/outside' of {h5ad} keeps its values in another file" in refusal(h5ad)


def test_virtual_datasets_are_refused_by_name(h5ad):
    layout = h5py.VirtualLayout((5, 4), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "numbers", (5, 4))
    with h5py.File(h5ad, "r+") as file:
        file.create_virtual_dataset("layers/outside", layout)
    assert f"'layers/outside' of {h5ad} is a virtual dataset" in refusal(h5ad)


def test_a_link_inside_the_file_is_followed(h5ad):
    with h5py.File(h5ad, "r+") as file:
        file["layers/again"] = h5py.SoftLink("/X")
        file["layers/round"] = h5py.SoftLink("/layers")
    file = open_anndata_file(h5ad)
    assert isinstance(file, h5py.File)
    with file:
        assert file["layers/again/data"].shape == (4,)


class Runs:
    """An object whose unpickling makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


PICKLE = {"id": "pickle", "protocol": 4}


@pytest.mark.parametrize("change", [{"compressor": PICKLE}, {"filters": [PICKLE]},
                                    {"compressor": None, "filters": [{"id": "vlen-utf8"}, PICKLE]}])  # fmt: skip
def test_a_codec_that_runs_code_is_refused_before_it_does(cells, tmp_path, change):
    path, ran = write_zarr(cells, tmp_path / "cells.zarr", 2), tmp_path / "ran"
    names = path / "obs" / "_index"
    metadata = json.loads((names / ".zarray").read_text()) | change
    (names / ".zarray").write_text(json.dumps(metadata))
    (names / "0").write_bytes(pickle.dumps(Runs(ran)))
    (path / ".zmetadata").unlink(missing_ok=True)
    said = refusal(path)
    assert str(path) in said
    assert "pickle" in said
    assert not ran.exists()


def test_a_codec_of_format_3_that_runs_code_is_refused(cells, tmp_path):
    path, ran = write_zarr(cells, tmp_path / "cells.zarr", 3), tmp_path / "ran"
    entry = path / "X" / "data" / "zarr.json"
    metadata = json.loads(entry.read_text())
    metadata["codecs"].append({"name": "numcodecs.pickle", "configuration": {"protocol": 4}})
    entry.write_text(json.dumps(metadata))
    (path / "X" / "data" / "c" / "0").write_bytes(pickle.dumps(Runs(ran)))
    group = json.loads((path / "zarr.json").read_text())
    group.pop("consolidated_metadata", None)
    (path / "zarr.json").write_text(json.dumps(group))
    assert "pickle" in refusal(path)
    assert not ran.exists()


def test_a_directory_linked_into_a_zarr_is_refused(zarr_directory, tmp_path):
    (zarr_directory / "X").rename(tmp_path / "elsewhere")
    (zarr_directory / "X").symlink_to(tmp_path / "elsewhere")
    assert f"'X' of {zarr_directory} is a link that leads out of it" in refusal(zarr_directory)


def old_layout(path):
    """Write five cells as anndata did before 0.7: tables as compound arrays, categories in uns, sparse by attribute."""
    with h5py.File(path, "w") as file:
        kinds = np.array([0, 0, 1, 1, 2], dtype="i1")
        names = np.array([f"c{i}".encode() for i in range(5)], dtype="S2")
        obs = np.empty(5, dtype=[("index", "S2"), ("kind", "i1")])
        obs["index"], obs["kind"] = names, kinds
        file["obs"] = obs
        file["var"] = np.array([(f"g{i}".encode(),) for i in range(4)], dtype=[("index", "S2")])
        file["uns/kind_categories"] = np.array([b"a", b"b", b"c"], dtype=h5py.string_dtype())
        matrix = sp.csr_matrix(np.eye(5, 4, dtype=np.float32))
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", (5, 4)
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(matrix, part)


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_the_layout_from_before_anndata_0_7_is_read(tmp_path):
    old_layout(tmp_path / "old.h5ad")
    for obs_only in (False, True):
        read = read_anndata(tmp_path / "old.h5ad", obs_only=obs_only)
        assert read.obs["kind"].tolist() == list("aabbc")
        assert read.obs_names.tolist() == [f"c{i}" for i in range(5)]
        assert read.var_names.tolist() == [f"g{i}" for i in range(4)]
