"""Cells on disk are scored as those in memory, in any format and order, without being in memory together."""

import errno
import json
import os
import tracemalloc

import anndata as ad
import numpy as np
import pytest

from bionemo.perteval import evaluate, scoring
from bionemo.perteval.cli import app
from bionemo.perteval.inputs import scratch, stored
from bionemo.perteval.inputs.scratch import ScratchCells
from bionemo.screens.errors import InputError
from bionemo.screens.shards import INDEX, file_checksum

OPTIONS = {"arms": "main", "threads": 1, "progress": False}


@pytest.fixture
def small_blocks(monkeypatch):
    """Read a few cells at a time."""
    monkeypatch.setattr(stored, "BLOCK_VALUES", 900)


@pytest.fixture
def shards(noisy, tmp_path):
    """The noisy prediction in three shards with their index; a condition lies in two of them."""
    folder = tmp_path / "predicted"
    folder.mkdir()
    listed = []
    for number, rows in enumerate(np.array_split(np.arange(noisy.n_obs), 3)):
        noisy[rows].write_h5ad(folder / f"part-{number}.h5ad")
        file = folder / f"part-{number}.h5ad"
        listed.append({"file": file.name, "cells": rows.size, "checksum": file_checksum(file)})
    (folder / INDEX).write_text(json.dumps({"format": 1, "cells": noisy.n_obs, "shards": listed}))
    return folder


def _same(found, expected):
    for ours, theirs in zip(found.kinds, expected.kinds, strict=True):
        assert ours.per_perturbation.equals(theirs.per_perturbation)


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "zarr"])
def test_files_in_any_order_and_layout_give_the_digits_of_cells_in_memory(small_blocks, noisy, counts, tmp_path, kind):
    shuffled = counts[np.random.default_rng(0).permutation(counts.n_obs)].copy()
    expected = evaluate(noisy, shuffled, **OPTIONS)
    noisy.write_h5ad(tmp_path / "predicted.h5ad", compression="gzip")
    path = tmp_path / ("observed.zarr" if kind == "zarr" else "observed.h5ad")
    shuffled.X = {"csc": shuffled.X.tocsc(), "dense": shuffled.X.toarray()}.get(kind, shuffled.X)
    (shuffled.write_zarr if kind == "zarr" else shuffled.write_h5ad)(path)
    _same(evaluate(tmp_path / "predicted.h5ad", path, **OPTIONS), expected)


def test_a_folder_of_shards_is_one_prediction(small_blocks, shards, noisy, counts):
    found = evaluate(shards, counts, **OPTIONS)
    _same(found, evaluate(noisy, counts, **OPTIONS))
    assert found.settings["predicted"] == "predicted"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda folder: (folder / "part-1.h5ad").unlink(),
            "Shard part-1.h5ad of .* is lost: give",
        ),
        (lambda folder: (folder / "part-1.h5ad").open("ab").write(b"x"), "Shard part-1.h5ad of .* is damaged"),
        (lambda folder: (folder / INDEX).rename(folder / "plan.json"), "is not finished: give the command"),
        (lambda folder: (folder / INDEX).write_text("{}"), "index.json cannot be read"),
    ],
)
def test_a_lost_or_damaged_shard_is_one_sentence(shards, counts, spoil, said):
    spoil(shards)
    with pytest.raises(InputError, match=said) as error:
        evaluate(shards, counts, **OPTIONS)
    assert "\n" not in str(error.value)


def test_shards_of_other_genes_are_refused(shards, noisy, counts):
    other = noisy[:5].copy()
    other.var_names = [f"h{name}" for name in noisy.var_names]
    other.write_h5ad(shards / "part-1.h5ad")
    index = json.loads((shards / INDEX).read_text())
    index["shards"][1]["checksum"] = file_checksum(shards / "part-1.h5ad")
    (shards / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"part-1.h5ad has other genes than .*part-0.h5ad"):
        evaluate(shards, counts, **OPTIONS)


def test_counts_with_a_late_fraction_are_log1p_values(small_blocks, noisy, log1p):
    """The first cells hold whole numbers only, as log1p values by chance may."""
    odd = log1p.copy()
    odd.X.data[: odd.X.indptr[30]] = 1.0
    assert evaluate(noisy, odd, **OPTIONS).settings["target_sum"] is None


def test_memory_is_a_block_and_not_the_file(tmp_path, monkeypatch):
    """Four times the cells take hardly more: what is kept of a cell are labels and two numbers."""
    monkeypatch.setattr(stored, "BLOCK_VALUES", 2**15)

    def peak(cells: int) -> int:
        path = tmp_path / f"{cells}.h5ad"
        ad.AnnData(np.random.default_rng(0).random((cells, 50), dtype=np.float32)).write_h5ad(path)
        tracemalloc.start()
        kept = ScratchCells(np.zeros(cells, dtype=np.int32), 50)
        for block in stored.open_cells(path).blocks(None):
            kept.append(block)
        assert kept[np.arange(100)].shape == (100, 50)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(40_000) < 1.6 * peak(10_000)


def test_a_full_scratch_folder_is_one_sentence(noisy, counts, monkeypatch):
    class Full:
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scratch.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(InputError, match=r"No space left on device.*TMPDIR"):
        evaluate(noisy, counts, **OPTIONS)


def test_processes_that_share_the_contexts_change_no_digit(noisy, counts):
    """Flags, pictures and noise come from every process too."""
    found = evaluate(noisy, counts, **OPTIONS, jobs=2)
    expected = evaluate(noisy, counts, **OPTIONS)
    _same(found, expected)
    assert found.noise == expected.noise
    assert [flag.value for flag in found.flags] == [flag.value for flag in expected.flags]
    with pytest.raises(InputError, match="jobs is 0"):
        evaluate(noisy, counts, **OPTIONS, jobs=0)


def test_a_process_that_is_killed_is_one_sentence(noisy, counts, monkeypatch):
    class Killing:
        def __reduce__(self):
            return os._exit, (1,)

    monkeypatch.setattr(scoring, "Estimates", lambda screen: Killing())
    with pytest.raises(InputError, match=r"was killed, perhaps because memory ran out; give fewer --jobs"):
        evaluate(noisy, counts, **OPTIONS, jobs=2)


def test_the_command_takes_a_folder(shards, counts, tmp_path):
    counts.write_h5ad(tmp_path / "observed.h5ad")
    arguments = ["--predicted", str(shards), "--observed", str(tmp_path / "observed.h5ad"), "--no-progress"]
    app(["evaluate", *arguments, "--arms", "main", "--out", str(tmp_path / "report")], standalone_mode=False)
    assert (tmp_path / "report" / "report.html").is_file()
