"""A directory is made whole or not at all, and replaced without a moment in which there is none."""

import os

import pytest

from bionemo.screens import InputError, making


@pytest.fixture
def old(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old").touch()
    return tmp_path / "made"


def replace(old):
    with making.hidden_folder(old) as folder:
        (folder / "store").mkdir()
        (folder / "store" / "new").touch()
        making.replace(old, folder / "store", folder)
        making.remove(folder)


def test_the_new_one_takes_the_name(old):
    replace(old)
    assert os.listdir(old) == ["new"]
    assert os.listdir(old.parent) == ["made"]


def test_one_of_the_two_is_at_the_name_at_every_moment(old, monkeypatch):
    """Path.rename is not enough for that: the kernel exchanges the two."""
    rename, missing = making.Path.rename, []

    def watched(self, target):
        answer = rename(self, target)
        missing.append(not old.exists())
        return answer

    monkeypatch.setattr(making.Path, "rename", watched)
    replace(old)
    assert missing
    assert not any(missing)


def test_where_names_cannot_be_exchanged_a_failure_brings_the_old_one_back(old, monkeypatch):
    monkeypatch.setattr(making, "_exchanged", lambda one, other: False)
    rename = making.Path.rename

    def refuse_new(self, target):
        if self.name == "new" and target == old:
            raise PermissionError(1, "Operation not permitted")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(making.Path, "rename", refuse_new)
        with pytest.raises(PermissionError):
            replace(old)
    assert os.listdir(old) == ["old"]
    assert sorted(os.listdir(old.parent / ".made.partial")) == ["lock", "store"]
    (old.parent / ".made.partial" / "store" / "new").unlink()
    (old.parent / ".made.partial" / "store").rmdir()
    replace(old)
    assert os.listdir(old) == ["new"]


def test_a_kill_between_two_renames_is_mended_by_the_next_start(old):
    (old.parent / ".made.partial").mkdir()
    old.rename(old.parent / ".made.partial" / "replaced")
    with making.hidden_folder(old):
        assert os.listdir(old) == ["old"]


def test_what_a_kill_left_of_a_removal_is_removed(tmp_path):
    (tmp_path / ".made.partial.0123abcd" / "scratch").mkdir(parents=True)
    (tmp_path / ".made.partial.mine").mkdir()
    (tmp_path / ".other.partial.0123abcd").mkdir()
    with making.made_whole(tmp_path / "made"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".made.partial.mine", ".other.partial.0123abcd", "made"]


def test_an_error_leaves_nothing(tmp_path):
    def fail(place):
        (place / "file").touch()
        raise OSError("full")

    with pytest.raises(OSError, match="full"), making.made_whole(tmp_path / "made") as place:
        fail(place)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_no_part_of_the_next(tmp_path):
    (tmp_path / ".made.partial" / "new").mkdir(parents=True)
    (tmp_path / ".made.partial" / "new" / "half").touch()
    with making.made_whole(tmp_path / "made") as place:
        (place / "whole").touch()
    assert os.listdir(tmp_path / "made") == ["whole"]
    assert os.listdir(tmp_path) == ["made"]


def test_two_processes_do_not_make_one_directory(tmp_path):
    with (
        making.made_whole(tmp_path / "made"),
        pytest.raises(InputError, match=r"Another process is writing .*made"),
        making.made_whole(tmp_path / "made"),
    ):
        pass
    assert os.listdir(tmp_path) == ["made"]
