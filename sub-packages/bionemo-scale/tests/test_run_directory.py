"""A run goes on only as what it was started as."""

import json
from dataclasses import replace

import pytest

from bionemo.scale.errors import Stopped
from bionemo.scale.runs.directory import Best, RunDirectory
from bionemo.scale.runs.sealed_json import read_sealed, write_sealed
from bionemo.screens.errors import InputError


@pytest.fixture
def run(record, tmp_path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.start(record, write=True)
    return run


@pytest.fixture
def begun(run) -> RunDirectory:
    (run.checkpoints / "step=10").mkdir(parents=True)
    return run


def test_a_record_is_read_as_it_was_written(run, record, config, vocabulary):
    assert run.read().model_config() == config
    assert run.read().model_vocabulary() == vocabulary
    assert run.read().store == record.store


def test_the_same_settings_go_on(begun, record):
    before = begun.record_file.read_bytes()
    begun.start(record, write=True)
    assert begun.record_file.read_bytes() == before


def test_only_the_first_rank_writes(record, tmp_path):
    RunDirectory(tmp_path / "run").start(record, write=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("training", {"max_steps": 9999, "sets_per_batch": 2, "checkpoint_every": 7, "log_every": 1}),
        ("compute", {"devices": 2, "tensor_parallel": 2, "layer_spec": "auto", "matmul_precision": "medium"}),
    ],
)
def test_what_does_not_change_the_answer_may_differ(begun, record, section, changes):
    begun.start(replace(record, **{section: {**getattr(record, section), **changes}}), write=True)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("training", {"seed": 1}, r"training\.seed=0, not 1"),
        ("training", {"learning_rate": 1.0}, r"training\.learning_rate=0\.001, not 1\.0"),
        ("training", {"cells_per_set": 16}, r"training\.cells_per_set=8, not 16"),
        ("training", {"accumulate": 2}, r"training\.accumulate=1, not 2"),
        ("model", {"hidden_size": 32}, r"model\.hidden_size=16, not 32"),
        ("model", {"source": "gaussian"}, r"model\.source=mixed, not gaussian"),
        ("split", {"fewshot": {}}, "another split"),
        ("vocabulary", {"genes": ["gene0"]}, "another vocabulary"),
        ("store", {"fingerprint": "0" * 64, "path": "elsewhere"}, "other data than elsewhere"),
    ],
)
def test_anything_else_is_refused_by_name(begun, record, section, changes, message):
    other = replace(record, **{section: {**getattr(record, section), **changes}})
    with pytest.raises(InputError, match=message) as refused:
        begun.start(other, write=True)
    assert "another --out" in str(refused.value)


def test_settings_that_never_reached_a_checkpoint_are_replaced(run, record):
    other = replace(record, training={**record.training, "learning_rate": 0.5})
    run.start(other, write=True)
    assert run.read().training["learning_rate"] == 0.5


def test_a_directory_that_cannot_be_written_is_refused(record, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        RunDirectory(tmp_path / "file" / "run").start(record, write=True)


def test_one_process_at_a_time_trains_in_a_directory(run):
    with run.held(write=True):
        with pytest.raises(InputError, match="another process trains in"), RunDirectory(run.path).held(write=True):
            pass
        with RunDirectory(run.path).held(write=False):  # another rank of the same training
            pass
    with RunDirectory(run.path).held(write=True):
        pass


def test_a_record_that_something_else_has_written_ends_the_run(run, record):
    run.check_record()
    other = replace(record, training={**record.training, "learning_rate": 0.5})
    RunDirectory(run.path).start(other, write=True)
    with pytest.raises(Stopped, match=r"run\.json was changed while the run went on"):
        run.check_record()


@pytest.mark.parametrize("damage", [("vocabulary", "genes"), ("store", "keys"), ("training", "cells_per_set")])
def test_a_record_without_a_part_is_damaged(run, damage):
    values, _ = read_sealed(run.record_file)
    del values[damage[0]][damage[1]]
    write_sealed(run.record_file, values)
    with pytest.raises(InputError, match="damaged"):
        run.read()


def test_other_embeddings_are_refused(begun, record):
    with pytest.raises(InputError, match="was started with other embeddings"):
        begun.start(replace(record, embeddings={"path": "vectors.npz", "sha256": "0"}), write=True)


def test_another_number_of_sets_a_step_is_refused(begun, record):
    with pytest.raises(InputError, match="takes 4 sets a step over all ranks, not 8"):
        begun.start(replace(record, global_batch=8), write=True)


def test_the_newest_whole_checkpoint_counts(run):
    assert run.last_checkpoint() is None
    for step in (9, 100, 20):
        (run.checkpoints / f"step={step}").mkdir(parents=True)
    assert run.last_checkpoint().name == "step=100"
    (run.checkpoints / "step=100-unfinished").touch()
    assert run.last_checkpoint().name == "step=20"
    (run.checkpoints / "step=300").touch()
    (run.checkpoints / "step=foo").mkdir()
    assert run.last_checkpoint().name == "step=20"


def test_the_best_checkpoint_is_remembered(run):
    assert run.best() is None
    best = Best(step=20, metric="val_loss", value=1.5, network_share=0.25)
    run.mark_best(best)
    assert run.best() == best
    run.best_file.write_text('{"step": 20}')
    with pytest.raises(InputError, match=r"best\.json is damaged"):
        run.best()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: "", "is damaged"),
        (lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "model"}), "is damaged"),
        (lambda text: text.replace('"format": 5', '"format": 99'), "is not of format 5"),
        (lambda text: "[]", "is damaged .*no object"),
        (lambda text: text.replace('"max_steps": 100', '"max_steps": 101'), "is damaged .*was changed after"),
        (lambda text: "[" * 100_000, "is damaged .*nested too deeply"),
        (lambda text: text.replace("100", "1" * 5_000), "is damaged"),
        (lambda text: "\xff" + text, "is damaged"),
    ],
    ids=["cut", "empty", "no model", "another format", "a list", "a number", "nested", "giant", "no text"],
)
def test_a_damaged_record_is_named(run, damage, message):
    run.record_file.write_text(damage(run.record_file.read_text()))
    with pytest.raises(InputError, match=message) as refused:
        run.read()
    assert "run.json" in str(refused.value)


def test_a_directory_that_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"holds no run\.json"):
        RunDirectory(tmp_path).read()
