"""A run that was killed, preempted or out of disk goes on as if nothing had happened."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import logged, pretrain_arguments, saved_weights, wait_for

from bionemo.scale.runs.checksums import seal
from bionemo.scale.runs.directory import RunDirectory, checkpoint_step

SETTINGS = (
    *("training.max_steps=40", "training.checkpoint_every=10", "training.validate_every=40"),
    "training.average_decay=0.9",
)


@pytest.fixture
def started(workshop, environment):
    """Start a training run in a process of its own, and do not wait for it."""

    def start(out, *overrides, **options) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "bionemo.scale.cli", *pretrain_arguments(workshop, out, *overrides)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return start


def small_files_only() -> None:
    """What a full disk does to a checkpoint: its large files cannot be written to their end."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))


def test_kill_9_sigterm_and_a_full_disk_change_nothing(tmp_path, pretrain, started):
    whole, run = tmp_path / "whole", tmp_path / "run"
    pretrain(whole, *SETTINGS)

    with started(run, *SETTINGS) as process:
        wait_for((run / "checkpoints" / "step=10").exists)
        wait_for(lambda: max(logged(run), default=0) > 12)
        process.send_signal(signal.SIGKILL)
    killed_at = max(logged(run))
    assert killed_at < 40, "the run ended before it could be killed"

    with started(run, *SETTINGS) as process:
        wait_for(lambda: len(logged(run).get(14, [])) > 1 or max(logged(run)) > killed_at)
        process.send_signal(signal.SIGTERM)
        told = process.stderr.read()
    assert process.returncode == 143
    saved = [path.name for path in (run / "checkpoints").iterdir()]
    assert len(saved) == 1, "the newest checkpoint alone is kept"
    assert saved[0] not in ("step=10", "step=20"), "saved where the signal came, not at the next multiple of ten"
    assert f"stopped by SIGTERM after step {saved[0].removeprefix('step=')}, which is saved" in told

    with started(run, *SETTINGS, preexec_fn=small_files_only) as process:
        told = process.stderr.read()
    assert process.returncode == 1
    *_, sentence = told.strip().splitlines()
    assert sentence.startswith(f"stopped: {run / 'checkpoints'} could not take checkpoint step=")
    assert f"it goes on from {saved[0]}" in sentence
    assert "Traceback" not in told
    assert [path.name for path in (run / "checkpoints").iterdir()] == saved

    pretrain(run, *SETTINGS)
    expected, found = logged(whole), logged(run)
    assert sorted(found) == list(range(1, 41))
    # Every step, those repeated since the last checkpoint included, has the loss of the uninterrupted run to the bit:
    # it saw the same sets with the same noise from the same weights.
    assert {step: set(values) for step, values in found.items()} == {s: set(v) for s, v in expected.items()}
    assert any(len(values) > 1 for values in found.values()), "no step was repeated: the kill came too late"
    assert saved_weights(run) == saved_weights(whole)


@pytest.mark.slow
def test_a_second_start_in_the_same_directory_is_refused(tmp_path, pretrain, started):
    run = tmp_path / "run"
    settings = ("training.max_steps=60", "training.checkpoint_every=60", "training.validate_every=60")
    with started(run, *settings) as process:
        wait_for((run / "tensorboard").exists)
        process.send_signal(signal.SIGSTOP)
        assert not RunDirectory(run).whole_checkpoints(), "the run ended before the second start"
        second = pretrain(run, *settings, "training.learning_rate=0.5", code=2)
        assert f"another process trains in {run}" in second.stderr
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 0, process.stderr.read()
    assert RunDirectory(run).read().training["learning_rate"] == 0.002
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step=60"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 7 MB: one checkpoint of about 4 MB fits, a second one beside it does not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_costs_the_new_checkpoint_alone(tmp_path, pretrain, small_disk):
    settings = ("training.max_steps=9", "training.checkpoint_every=3", "training.validate_every=100")
    whole, run = tmp_path / "whole", small_disk / "run"
    pretrain(whole, *settings)
    *_, sentence = pretrain(run, *settings, code=1).stderr.strip().splitlines()
    # Which write fails decides what it is called: "No space left on device", or "a file was cut short".
    assert sentence.startswith(f"stopped: {run / 'checkpoints'} could not take checkpoint step=6 (")
    assert "make room there" in sentence
    assert "it goes on from step=3" in sentence
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step=3"]
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert "going on from step=3" in pretrain(run, *settings).stderr
    assert saved_weights(run) == saved_weights(whole)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written_beside_the_training(tmp_path, pretrain, started):
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = ("training.max_steps=150", "training.checkpoint_every=10", "training.validate_every=150")
    pretrain(whole, *settings)
    beside, left = (*settings, "training.async_save=on"), RunDirectory(run)

    def unfinished() -> list[Path]:
        return list((run / "checkpoints").glob("step=*-unfinished"))

    with started(run, *beside, start_new_session=True) as process:
        wait_for(lambda: (left.last_checkpoint() and unfinished()) or process.poll() is not None)
        assert len(members(process.pid)) > 1
        process.kill()
    wait_for(lambda: not members(process.pid), 20)  # those that write checkpoints end with it
    assert unfinished(), "no checkpoint was being written when the run was killed"
    last = left.last_checkpoint()
    assert last is not None
    assert max(logged(run)) > checkpoint_step(last), "training waited for its checkpoints"
    assert f"going on from {last.name}" in pretrain(run, *beside).stderr
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step=150"]
    expected, found = logged(whole), logged(run)
    assert {step: set(values) for step, values in found.items()} == {s: set(v) for s, v in expected.items()}
    assert saved_weights(run) == saved_weights(whole)


@pytest.mark.slow
def test_ctrl_c_saves_the_step_and_leaves_as_many_checkpoints_as_promised(tmp_path, started):
    run = tmp_path / "run"
    settings = ("training.max_steps=3000", "training.checkpoint_every=5", "training.validate_every=3000")
    left = RunDirectory(run)
    with started(run, *settings, "training.async_save=on", start_new_session=True) as process:
        wait_for(
            lambda: (left.last_checkpoint() and [*left.checkpoints.glob("*-unfinished")]) or process.poll() is not None
        )
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, the writers included
        told = process.stderr.read()
    assert process.returncode == 130, told
    assert "stopped by SIGINT after step" in told.splitlines()[-1]
    assert "Traceback" not in told
    assert [path.name for path in left.checkpoints.iterdir()] == [left.last_checkpoint().name]
    wait_for(lambda: not members(process.pid), 20)


@pytest.mark.slow
def test_ctrl_c_before_the_first_step_is_a_sentence(tmp_path, started):
    run = tmp_path / "run"
    with started(run, "training.max_steps=3000") as process:
        wait_for((run / "run.json").exists)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 130
    assert told.strip().splitlines()[-1].startswith("stopped by SIGINT")
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_full_disk_while_a_checkpoint_is_written_beside_the_training_is_a_sentence(tmp_path, started):
    run = tmp_path / "run"
    with started(run, *SETTINGS, "training.async_save=on", preexec_fn=small_files_only) as process:
        told = process.stderr.read()
    assert process.returncode == 1
    *_, sentence = told.strip().splitlines()
    assert sentence.startswith(f"stopped: {run / 'checkpoints'} could not take a checkpoint (")
    assert "Traceback" not in told
    assert RunDirectory(run).last_checkpoint() is None


@pytest.mark.slow
def test_a_rank_that_dies_takes_the_others_along_with_a_sentence(tmp_path, started, pretrain):
    run = tmp_path / "run"
    settings = ("training.max_steps=3000", "training.checkpoint_every=10", "compute.devices=2")
    settings = (*settings, "training.sets_per_batch=2", "training.validate_every=3000")
    with started(run, *settings, start_new_session=True) as process:
        wait_for((run / "checkpoints" / "step=10").exists)
        wait_for(lambda: not (run / "checkpoints" / "step=10-unfinished").exists())
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        other = next(pid for pid in children if b"pretrain" in Path("/proc", pid, "cmdline").read_bytes())
        subprocess.run(["kill", "-9", other], check=True)
        since = time.monotonic()
        told = process.stderr.read()
    assert time.monotonic() - since < 30
    assert process.returncode == 1
    assert "rank 0 has lost another rank" in told
    assert "it goes on from step=" in told
    assert "Traceback" not in told
    wait_for(lambda: not members(process.pid), 20)
    done = pretrain(run, *settings[1:], "training.max_steps=100", "compute.devices=1", "training.sets_per_batch=4")
    assert "going on from step=" in done.stderr


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights(tmp_path, pretrain):
    done = pretrain(tmp_path / "run", "training.max_steps=9", "training.learning_rate=1e30", code=1)
    *_, sentence = done.stderr.strip().splitlines()
    assert sentence.startswith("stopped: the gradient of step 2 is not finite; the first output that is not finite is")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_code_in_a_checkpoint_is_not_run_by_going_on_from_it(tmp_path, pretrain):
    run, ran = tmp_path / "run", tmp_path / "ran"
    pretrain(run, "training.max_steps=3")
    (run / "checkpoints" / "step=3" / "weights" / ".metadata").write_bytes(
        b"cos\nmkdir\n(V" + str(ran).encode() + b"\ntR."
    )
    seal(run / "checkpoints" / "step=3", RunDirectory(run).read())
    done = pretrain(run, "training.max_steps=6", code=2)
    assert "step=3 asks for os.mkdir to be run" in done.stderr
    assert not ran.exists()


@pytest.mark.slow
def test_the_best_checkpoint_and_the_newest_are_kept(tmp_path, pretrain):
    run = tmp_path / "run"
    often = ("training.checkpoint_every=2", "training.validate_every=4", "training.keep_checkpoints=2")
    pretrain(run, "training.max_steps=4", *often)
    best = RunDirectory(run).best()
    assert (best.step, best.metric) == (4, "val_score")
    # Nothing will be better than this.
    RunDirectory(run).mark_best(replace(best, value=2.0))
    pretrain(run, "training.max_steps=10", *often)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step=10", "step=4", "step=8"]


@pytest.mark.slow
def test_an_imported_model_is_trained_from_its_weights(tmp_path, pretrain, command):
    run, imported = tmp_path / "run", tmp_path / "imported"
    pretrain(run, "training.max_steps=60")
    command("export", run, "--out", tmp_path / "exported")
    command("import", tmp_path / "exported", "--out", imported)
    pretrain(imported, "training.max_steps=60")
    assert logged(imported)[1][0] < 0.9 * logged(run)[1][0]


def test_a_finished_run_is_trained_further_and_a_half_written_checkpoint_passed_over(tmp_path, pretrain):
    run = tmp_path / "run"
    pretrain(run, "training.max_steps=4", "training.checkpoint_every=2")
    shutil.copytree(run / "checkpoints" / "step=4", run / "checkpoints" / "step=5")
    (run / "checkpoints" / "step=5-unfinished").touch()
    (run / "checkpoints" / "step=5" / "weights" / "metadata.json").unlink()
    done = pretrain(run, "training.max_steps=12", "training.checkpoint_every=2", "training.validate_every=6")
    assert "going on from step=4" in done.stderr
    assert sorted(logged(run, "val_loss")) == [5, 11], (
        "validation is logged under the steps of a run that never stopped"
    )
    rates = {step: values[-1] for step, values in logged(run, "train/learning_rate").items()}
    assert max(rates[step] for step in range(5, 13)) > 2 * rates[4], "trained further at the rate it had come down to"
    assert "is done" in pretrain(run, "training.max_steps=12").stderr


def members(session: int) -> list[str]:
    """Processes of a session that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(its_session) == session and state != "Z":
            found.append(path.parent.name)
    return found
