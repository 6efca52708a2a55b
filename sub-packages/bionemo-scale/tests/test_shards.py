"""Predictions that are larger than a shard: whole or absent, the same whoever makes them, and gone on with."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest

import bionemo.scale as scale
from bionemo.scale.errors import Stopped
from bionemo.scale.inference import populations as choosing
from bionemo.scale.inference import shards
from bionemo.scale.inference.generate import Generator
from bionemo.scale.inference.predict import predict
from bionemo.scale.inference.ranks import Rank, started
from bionemo.screens.errors import InputError

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def asked(run_path, written, monkeypatch):
    """Predict with small shards: five of them."""
    monkeypatch.setattr(choosing, "CELLS_PER_SHARD", 1)
    screen = written()

    def run(out: Path, **settings) -> Path:
        predict(run_path, screen, out, **{"like": screen, "part": "all", "progress": False} | settings)
        return out

    return run


@pytest.fixture
def stopping(monkeypatch):
    """Let the process be interrupted at the N-th shard; count those that are predicted."""
    original, predicted = Generator.predict, []

    def stop_at(number: int | None) -> list:
        predicted.clear()

        def counted(self, populations, report=lambda cells: None):
            if len(predicted) == number:
                raise KeyboardInterrupt
            predicted.append(populations)
            return original(self, populations, report)

        monkeypatch.setattr(Generator, "predict", counted)
        return predicted

    return stop_at


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def test_one_file_of_many_shards_is_what_a_model_answers_in_memory(asked, run_path, screen, tmp_path):
    made = ad.read_h5ad(asked(tmp_path / "predicted.h5ad"))
    expected = scale.load(run_path).predict(screen, like=screen, part="all")
    assert (made.X != expected.X).nnz == 0
    assert made.obs.astype(str).equals(expected.obs.astype(str))
    assert made.uns["prediction"]["controls"] == expected.uns["prediction"]["controls"]
    assert made.uns["training_conditions"].astype(str).equals(expected.uns["training_conditions"].astype(str))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predicted.h5ad", "screen.h5ad"]


def test_a_folder_has_shards_and_an_index_that_says_what_they_are(asked, tmp_path):
    folder = asked(tmp_path / "predicted")
    index = json.loads((folder / "index.json").read_text())
    parts = [ad.read_h5ad(folder / shard["file"]) for shard in index["shards"]]
    assert len(parts) == 5
    assert [part.n_obs for part in parts] == [shard["cells"] for shard in index["shards"]]
    names = [name for part in parts for name in part.obs_names]
    assert names == [f"predicted_{i}" for i in range(index["cells"])]
    assert index["prediction"]["seed"] == 0
    with pytest.raises(InputError, match="predicted exists: name another, or replace it with --overwrite"):
        asked(folder)
    asked(folder, overwrite=True, seed=1)
    assert json.loads((folder / "index.json").read_text())["prediction"]["seed"] == 1


def test_the_cells_are_the_same_whatever_the_number_of_ranks(asked, tmp_path):
    alone, shared = content(asked(tmp_path / "alone")), tmp_path / "shared"
    for number in (2, 0, 1):
        asked(shared, rank=Rank(number, 3))
    assert content(shared) == alone
    assert (shared / "index.json").exists()
    for number in range(7):
        asked(tmp_path / "one.h5ad", rank=Rank(number, 7))
    assert ad.read_h5ad(tmp_path / "one.h5ad").n_obs == sum(ad.read_h5ad(path).n_obs for path in shared.glob("part*"))
    assert not (tmp_path / "one.h5ad.shards").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["shared", "one.h5ad"])
def test_a_rank_that_comes_when_the_first_is_done_has_nothing_to_do(asked, tmp_path, monkeypatch, name, overwrite):
    """An earlier command had made all shards when it was ended: the first rank is done before the second begins."""

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    with monkeypatch.context() as ended:
        ended.setattr(shards.ShardFolder, "finish", lambda *_: None)
        for number in range(2):
            asked(tmp_path / name, rank=Rank(number, 2))
    second = Rank(1, 2)
    asked(tmp_path / name, rank=Rank(0, 2), overwrite=overwrite)
    made = files()
    assert any(file.name in (name, "index.json") for file in made)
    asked(tmp_path / name, rank=second, overwrite=overwrite)
    assert files() == made


def test_shards_that_come_when_another_process_has_made_the_file_are_removed(tmp_path):
    folder = shards.ShardFolder(tmp_path / "one.h5ad.shards", {}, shards=2)
    with folder.held(mend=None, overwrite=False):
        (folder.path / "plan.json").unlink()  # as the other process does, before it fails to remove a folder in use
        folder.write(0, ad.AnnData(np.zeros((2, 3), dtype=np.float32)))
        folder.finish({}, [2, 2], tmp_path / "one.h5ad")
    assert not folder.path.exists()


def test_what_was_interrupted_goes_on_with_what_is_absent(asked, stopping, tmp_path):
    expected = content(asked(tmp_path / "expected"))
    for out in (tmp_path / "predicted", tmp_path / "predicted.h5ad"):
        folder = out if not out.suffix else out.with_name("predicted.h5ad.shards")
        stopping(2)
        with pytest.raises(KeyboardInterrupt):
            asked(out)
        there = content(folder)
        assert there.items() < expected.items()
        assert len(there) == 2
        (folder / "part-00003-0.h5ad.1.partial").touch()  # of a shard that a kill has cut
        damaged = folder / min(there)
        damaged.write_bytes(damaged.read_bytes()[:-1])
        predicted = stopping(None)
        asked(out)
        assert len(predicted) == 4
    assert content(tmp_path / "predicted") == expected
    assert sorted(path.name for path in (tmp_path / "predicted").iterdir() if path.name[0] != ".") == sorted(
        [*expected, "index.json", "plan.json"]
    )
    assert (ad.read_h5ad(tmp_path / "predicted.h5ad").obs_names[-1]).startswith("predicted_")


def test_shards_that_were_lost_after_the_end_are_made_again(asked, stopping, tmp_path):
    folder = asked(tmp_path / "predicted")
    expected = content(folder)
    index = (folder / "index.json").read_bytes()
    lost, damaged = sorted(expected)[:2]
    (folder / lost).unlink()
    (folder / damaged).write_bytes(b"")
    predicted = stopping(None)
    asked(folder)
    assert len(predicted) == 2
    assert content(folder) == expected
    assert (folder / "index.json").read_bytes() == index


@pytest.mark.parametrize("damage", ["folder", "link to itself"])
def test_what_is_no_file_in_the_place_of_a_shard_is_replaced(asked, tmp_path, damage):
    folder = asked(tmp_path / "predicted")
    expected, index = content(folder), (folder / "index.json").read_bytes()
    shard = folder / min(expected)
    shard.unlink()
    if damage == "folder":
        shard.mkdir()
    else:
        shard.symlink_to(shard.name)
    asked(folder)
    assert content(folder) == expected
    assert (folder / "index.json").read_bytes() == index
    (folder / "index.json").write_text("[" * 200_000)
    asked(folder)
    assert (folder / "index.json").read_bytes() == index
    (folder / "index.json").unlink()
    (folder / "index.json").mkdir()
    with pytest.raises(InputError, match="predicted could not be written"):
        asked(folder)


@pytest.mark.parametrize("content", ["[" * 200_000, '{"for": "the weekend"}'])
def test_a_plan_of_something_else_is_refused_and_left_alone(asked, tmp_path, content):
    (tmp_path / "predicted").mkdir()
    (tmp_path / "predicted" / "plan.json").write_text(content)
    with pytest.raises(InputError, match="holds something else than a prediction"):
        asked(tmp_path / "predicted")
    assert [path.name for path in (tmp_path / "predicted").iterdir()] == ["plan.json"]
    assert (tmp_path / "predicted" / "plan.json").read_text() == content


def test_a_plan_that_a_kill_has_cut_is_no_other_prediction(asked, tmp_path):
    (tmp_path / "predicted").mkdir()
    (tmp_path / "predicted" / "plan.json.1.partial").write_text("{")
    asked(tmp_path / "predicted")
    assert not list((tmp_path / "predicted").glob("*.partial"))


def test_shards_that_a_kill_has_left_beside_their_file_are_removed(asked, tmp_path, monkeypatch):
    out = tmp_path / "predicted.h5ad"
    monkeypatch.setattr(shards, "remove_merged", lambda *_: None)
    asked(out)
    assert (tmp_path / "predicted.h5ad.shards").is_dir()
    with pytest.raises(InputError, match="exists: name another file"):
        asked(out)
    assert out.is_file()
    assert not (tmp_path / "predicted.h5ad.shards").exists()


@pytest.mark.parametrize(
    "left", [("part-00000-a.h5ad", ".finishing", ".lock", "plan.json"), (".finishing", "plan.json"), ("plan.json",), ()]
)
def test_what_a_kill_has_left_of_the_shards_of_a_file_is_removed(tmp_path, left):
    """The file may be a shard that was renamed, which is older than the beginning of the end."""
    out, folder = tmp_path / "predicted.h5ad", tmp_path / "predicted.h5ad.shards"
    out.touch()
    folder.mkdir()
    for name in left:
        (folder / name).touch()
    for path, seconds in ((folder / "plan.json", 100), (out, 200), (folder / ".finishing", 300)):
        if path.exists():
            os.utime(path, (seconds, seconds))
    shards.remove_merged(folder, out)
    assert not folder.exists()


def test_shards_are_not_removed_for_a_file_that_is_older_than_their_plan(tmp_path):
    out, folder = tmp_path / "predicted.h5ad", tmp_path / "predicted.h5ad.shards"
    folder.mkdir()
    for path, seconds in ((folder / "plan.json", 200), (out, 100)):
        path.touch()
        os.utime(path, (seconds, seconds))
    shards.remove_merged(folder, out)
    assert (folder / "plan.json").exists()


def test_shards_of_another_prediction_are_refused(asked, stopping, tmp_path):
    stopping(2)
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path / "predicted")
    stopping(None)
    with pytest.raises(InputError, match="predicted holds shards of another prediction: name another folder"):
        asked(tmp_path / "predicted", seed=1)
    asked(tmp_path / "predicted", seed=1, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match="mine holds something else than a prediction"):
        asked(tmp_path / "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_two_predictions_at_once_do_not_mix(asked, tmp_path):
    folder = shards.ShardFolder(tmp_path / "predicted", {"another": "plan"}, 1)
    message = "is being written by another process"
    with folder.held(mend=None, overwrite=False), pytest.raises(InputError, match=message):
        asked(tmp_path / "predicted")
    assert not (tmp_path / "predicted").exists()


def test_a_full_disk_leaves_the_old_file_and_whole_shards(asked, tmp_path, monkeypatch):
    out = asked(tmp_path / "out" / "predicted.h5ad", part="test")
    before = out.read_bytes()
    with monkeypatch.context() as full:
        full.setattr(shards.os, "fsync", lambda number: (_ for _ in ()).throw(FULL))
        with pytest.raises(InputError, match=r"could not be written \(No space left on device\): free the place"):
            asked(out, overwrite=True)
    assert [path.name for path in out.parent.iterdir()] == ["predicted.h5ad"]
    assert out.read_bytes() == before


def test_a_disk_that_fills_up_under_hdf5_is_said_once_and_crashes_nothing(asked, tmp_path, monkeypatch):
    """HDF5 kept what it could not write, and crashed with it at the end of the process."""
    parts = sorted(asked(tmp_path / "predicted").glob("part-*"))

    class Small(shards._Unfailing):
        def truncate(self, size=None):
            with self._kept():
                raise FULL
            return size or 0

    out = tmp_path / "one.h5ad"
    with monkeypatch.context() as full:
        full.setattr(shards, "_Unfailing", Small)
        with pytest.raises(InputError, match=r"one\.h5ad could not be written"):
            shards.merge(parts, out)
    assert not list(tmp_path.glob("one*"))
    shards.merge(parts, out)
    with h5py.File(out) as file:
        assert "prediction" in file["uns"]


def test_a_rank_says_what_is_wrong_with_its_environment(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(InputError, match="RANK=2 is not among WORLD_SIZE=1 processes"), started(1):
        pass
    monkeypatch.setenv("WORLD_SIZE", "4")
    with started(1) as rank:
        assert rank == Rank(2, 4)
    with pytest.raises(InputError, match="--devices 2 inside torchrun"), started(2):
        pass


SMALL_SHARDS = """
from bionemo.scale.inference import populations

populations.CELLS_PER_SHARD = 1
from bionemo.scale.cli.app import main

main()
"""


@pytest.mark.slow
def test_two_processes_predict_what_one_does(run_path, written, tmp_path):
    screen, script = written(), tmp_path / "small_shards.py"
    script.write_text(SMALL_SHARDS)
    words = ["predict", "--checkpoint", run_path, "--controls", screen, "--like", screen, "--part", "all"]
    for name, more in (("one", []), ("two", ["--devices", "2"])):
        command = [sys.executable, script, *words, "--out", tmp_path / name, *more]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert f"wrote {tmp_path / name}: 37 cells" in done.stdout
    assert len(content(tmp_path / "one")) == 5
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_processes_that_were_started_end_with_a_failure_of_the_first(monkeypatch):
    others, popen = [], subprocess.Popen

    def remembered(*words, **given):
        others.append(popen(*words, **given))
        return others[-1]

    def fail():
        with started(3) as rank:
            assert rank == Rank(0, 3)
            raise InputError("mistake")

    monkeypatch.setattr(subprocess, "Popen", remembered)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "import time; time.sleep(60)", "--devices", "3"])
    with pytest.raises(InputError, match="mistake"):
        fail()
    assert [process.poll() for process in others] == [-15, -15]
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "import os; exit(int(os.environ['RANK']))"])
    message = "rank 1 with 1, rank 2 with 2 ended early: start the same command again"
    with pytest.raises(Stopped, match=message), started(3):
        pass
