"""A store is made whole or not at all: by one process at a time, over kills, interruptions and full disks."""

import itertools
import multiprocessing
import os
import pkgutil
import resource
import signal

import pytest

from bionemo.cellsets import CellStore, prepare
from bionemo.cellsets.inputs import matrices, pieces
from bionemo.cellsets.preparation import first_pass, second_pass, workplace
from bionemo.screens import InputError

ALL = {"n_genes": None, "progress": False}


@pytest.fixture
def killed(screen_path, keys, monkeypatch):
    """Run `prepare` in small pieces in a process that kills itself at the n-th call of a function."""
    monkeypatch.setattr(matrices, "BLOCK_ROWS", 23)
    monkeypatch.setattr(pieces, "PIECE_VALUES", 500)
    monkeypatch.setattr(second_pass, "BUCKET_BYTES", 5_000)
    monkeypatch.setattr(first_pass, "SAVE_EVERY", 0.0)

    def run(target: str, call: int, store, **arguments) -> None:
        owner, name = pkgutil.resolve_name(f"bionemo.cellsets.{target.rpartition('.')[0]}"), target.rpartition(".")[2]
        function, calls = getattr(owner, name), itertools.count(1)

        def counted(*args, **named):
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **named)

        def work():
            setattr(owner, name, staticmethod(counted) if name == "finish" else counted)
            prepare([screen_path], store, threads=2, **ALL, **keys, **arguments)

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL

    return run


@pytest.mark.parametrize(
    ("target", "call", "done"),
    [
        ("preparation.first_pass.Survey._save", 4, {"survey.npz"}),
        ("preparation.second_pass.SortedPiece.finish", 3, {"survey.npz", "rows-0"}),
        ("preparation.writer.StoreWriter._write_obs", 3, {"survey.npz", "rows-0", "rows-13"}),
        ("preparation.workplace.replace", 1, None),
    ],
)
def test_a_killed_prepare_goes_on(store, screen_path, tmp_path, keys, killed, caplog, monkeypatch, target, call, done):
    killed(target, call, tmp_path / "s")
    assert os.listdir(tmp_path) == [".s.partial"]
    scratch = tmp_path / ".s.partial" / "scratch"
    assert done is None or done <= set(os.listdir(scratch))
    before = {name: (scratch / name).stat().st_mtime_ns for name in done or () if name.startswith("rows")}
    kept: list[bool] = []
    rmtree = workplace.shutil.rmtree

    def look_first(path, **named):
        if str(path).endswith("scratch"):
            kept.extend((path / name).stat().st_mtime_ns == time for name, time in before.items())
        rmtree(path, **named)

    monkeypatch.setattr(workplace.shutil, "rmtree", look_first)
    with caplog.at_level("INFO"):
        made = prepare([screen_path], tmp_path / "s", **ALL, **keys)
    assert "Going on with the unfinished store" in caplog.text
    assert made.fingerprint == store.fingerprint
    assert CellStore.open(made.path, verify=True).obs().equals(store.obs())
    assert kept == [True] * len(before), "what was finished is not done again"
    assert os.listdir(tmp_path) == ["s"]


def test_what_other_arguments_left_is_removed(store, screen_path, tmp_path, keys, killed, caplog):
    killed("preparation.second_pass.SortedPiece.finish", 3, tmp_path / "s")
    with caplog.at_level("INFO"):
        made = prepare([screen_path], tmp_path / "s", target_sum=1e6, **ALL, **keys)
    assert "its inputs or arguments differ" in caplog.text
    assert made.target_sum == 1e6
    assert os.listdir(tmp_path) == ["s"]
    # A changed input as well.
    killed("preparation.second_pass.SortedPiece.finish", 3, tmp_path / "t")
    os.utime(screen_path, ns=(0, screen_path.stat().st_mtime_ns + 1))
    caplog.clear()
    with caplog.at_level("INFO"):
        assert prepare([screen_path], tmp_path / "t", **ALL, **keys).fingerprint == store.fingerprint
    assert "its inputs or arguments differ" in caplog.text


def test_a_kill_between_the_renames_loses_no_store(store, altered, screen_path, tmp_path, keys, killed, monkeypatch):
    """Where a file system cannot exchange two names, there are two renames, and a moment between them."""
    prepare([screen_path], tmp_path / "s", n_genes=5, progress=False, **keys)
    killed("preparation.workplace.replace", 1, tmp_path / "s", overwrite=True)
    assert CellStore.open(tmp_path / "s").n_genes == 5
    (tmp_path / "s").rename(tmp_path / ".s.partial" / "replaced")  # the first of the two
    wrong = altered(lambda data: data.X.data.__setitem__(3, 0.5))
    with pytest.raises(InputError, match="that is no count"):  # which removes what was unfinished
        prepare([wrong], tmp_path / "s", overwrite=True, **ALL, **keys)
    assert CellStore.open(tmp_path / "s", verify=True).n_genes == 5
    made = prepare([screen_path], tmp_path / "s", overwrite=True, **ALL, **keys)
    assert made.fingerprint == store.fingerprint
    assert "s" in os.listdir(tmp_path)
    assert ".s.partial" not in os.listdir(tmp_path)


def test_the_old_store_is_not_taken_for_the_new_one(store, screen_path, tmp_path, keys, killed):
    """After a kill between the exchange of the two and the removal of the old one."""
    prepare([screen_path], tmp_path / "s", n_genes=5, progress=False, **keys)
    killed("preparation.workplace.remove", 1, tmp_path / "s", overwrite=True)
    assert CellStore.open(tmp_path / "s").fingerprint == store.fingerprint
    assert prepare([screen_path], tmp_path / "s", overwrite=True, **ALL, **keys).fingerprint == store.fingerprint
    assert os.listdir(tmp_path) == ["s"]


def test_two_processes_do_not_make_one_store(screen_path, tmp_path, keys):
    with (
        workplace.workplace(tmp_path / "s", {}, overwrite=False),
        pytest.raises(InputError, match=r"Another process is writing .*s: wait until it is done"),
    ):
        prepare([screen_path], tmp_path / "s", **ALL, **keys)
    assert prepare([screen_path], tmp_path / "t", **ALL, **keys).n_cells == 315


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), OSError(116, "Stale file handle"), KeyboardInterrupt()]
)
@pytest.mark.parametrize(
    "where",
    [
        "preparation.writer._write_scdl",
        "preparation.workplace.replace",
        "preparation.second_pass.SortedPiece.write",
        "preparation.second_pass.SortedPiece.finish",
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_while_writing_leaves_what_was_there_and_what_was_done(
    screen_path, tmp_path, keys, monkeypatch, caplog, failure, where, overwrite
):
    if overwrite:
        prepare([screen_path], tmp_path / "s", **ALL, **keys)

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(f"bionemo.cellsets.{where}", fail)
    interrupted = isinstance(failure, KeyboardInterrupt)
    with pytest.raises(
        KeyboardInterrupt if interrupted else InputError,
        match=None if interrupted else rf"\({failure.strerror}\): free space there or choose another",
    ):
        prepare([screen_path], tmp_path / "s", n_genes=5, overwrite=overwrite, progress=False, **keys)
    assert set(os.listdir(tmp_path)) == ({"s"} if overwrite else set()) | {".s.partial"}
    if overwrite:
        assert CellStore.open(tmp_path / "s", verify=True).n_genes == 30
    monkeypatch.undo()
    with caplog.at_level("INFO"):
        made = prepare([screen_path], tmp_path / "s", n_genes=5, overwrite=overwrite, progress=False, **keys)
    assert "Going on with the unfinished store" in caplog.text
    assert made.n_genes == 5
    assert os.listdir(tmp_path) == ["s"]


def test_an_error_of_a_disk_while_reading_deletes_no_unfinished_work(
    store, screen_path, tmp_path, keys, killed, monkeypatch, caplog
):
    killed("preparation.second_pass.SortedPiece.finish", 3, tmp_path / "s")
    done = set(os.listdir(tmp_path / ".s.partial" / "scratch"))

    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    for owner, name in (
        (matrices.CsrArrays, "blocks"),  # reading the matrix
        (first_pass.np, "fromfile"),  # reading what was put aside
        (workplace.json, "loads"),  # reading the plan
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(InputError, match="Input/output error"):
                prepare([screen_path], tmp_path / "s", **ALL, **keys)
        assert done <= set(os.listdir(tmp_path / ".s.partial" / "scratch"))
    with caplog.at_level("INFO"):
        made = prepare([screen_path], tmp_path / "s", **ALL, **keys)
    assert "Going on with the unfinished store" in caplog.text
    assert made.fingerprint == store.fingerprint


def test_work_whose_plan_is_damaged_is_left_and_named(screen_path, tmp_path, keys, killed):
    killed("preparation.second_pass.SortedPiece.finish", 3, tmp_path / "s")
    plan = tmp_path / ".s.partial" / "plan.json"
    plan.write_text(plan.read_text()[:40])
    with pytest.raises(InputError, match=r"plan.json is damaged, .* remove that directory"):
        prepare([screen_path], tmp_path / "s", **ALL, **keys)
    assert "rows-0" in os.listdir(tmp_path / ".s.partial" / "scratch")


def test_an_input_found_wrong_leaves_nothing(altered, tmp_path, keys):
    path = altered(lambda data: data.X.data.__setitem__(3, 0.5))
    with pytest.raises(InputError, match="that is no count"):
        prepare([path], tmp_path / "new" / "s", **ALL, **keys)
    assert os.listdir(tmp_path / "new") == []


def test_only_a_store_is_overwritten(store, screen_path, tmp_path, keys):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    (folder / "manifest.json").write_text('{"name": "a web page", "files": {}}')
    with pytest.raises(InputError, match="thesis is not a cell store, so it is not overwritten"):
        prepare([screen_path], folder, overwrite=True, **ALL, **keys)
    (folder / "manifest.json").write_bytes((store.path / "manifest.json").read_bytes())
    with pytest.raises(InputError, match=r"thesis holds more than a cell store \('chapter.txt'\)"):
        prepare([screen_path], folder, overwrite=True, **ALL, **keys)
    (folder / "chapter.txt").rename(tmp_path / "chapter.txt")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InputError, match="link is a link, so it is not overwritten"):
        prepare([screen_path], tmp_path / "link", overwrite=True, **ALL, **keys)
    made = prepare([screen_path], folder, overwrite=True, **ALL, **keys)  # what is left of a store may be replaced
    assert made.fingerprint == store.fingerprint


@pytest.mark.parametrize("limit", [0, 2_000, 9_000])
def test_a_file_that_cannot_grow_ends_in_one_sentence(screen_path, tmp_path, keys, limit):
    """As a full disk does: the system refuses to make a file longer than `limit` bytes."""
    # What is loaded and compiled once writes files of its own.
    prepare([screen_path], tmp_path / "first", **ALL, **keys)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(InputError, match=r"The store .*s cannot be written \(File too large\): free space there"):
            prepare([screen_path], tmp_path / "s", **ALL, **keys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "s" not in os.listdir(tmp_path)
    assert prepare([screen_path], tmp_path / "s", **ALL, **keys).n_cells == 315
    assert sorted(os.listdir(tmp_path)) == ["first", "s"]


def test_a_directory_that_may_not_be_written_is_named(screen_path, tmp_path, keys, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"The store .*s cannot be written \((Not a directory|File exists)\)"):
        prepare([screen_path], tmp_path / "file" / "s", **ALL, **keys)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(workplace.Path, "mkdir", refuse)  # the tests may run as root, whom no permission stops
    with pytest.raises(InputError, match=r"s cannot be written \(Permission denied\): free space there or choose"):
        prepare([screen_path], tmp_path / "s", **ALL, **keys)
