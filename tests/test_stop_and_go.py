"""A run that was killed goes on as if nothing had happened."""

import shutil
import signal
import subprocess
import sys
import time

from jobs import logged, pretrain_arguments

SETTINGS = ("training.max_steps=40", "training.checkpoint_every=10", "training.validate_every=40")


def test_kill_9_changes_nothing(tmp_path, workshop, pretrain, environment):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pretrain(whole, *SETTINGS)

    arguments = pretrain_arguments(workshop, killed, *SETTINGS)
    with subprocess.Popen(
        [sys.executable, "-m", "bionemo.scale.cli", *arguments], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        wait_for((killed / "checkpoints" / "step=10").exists)
        wait_for(lambda: max(logged(killed), default=0) > 12)
        process.send_signal(signal.SIGKILL)
    seen = logged(killed)
    assert max(seen) < 40, "the run ended before it could be killed"

    pretrain(killed, *SETTINGS)
    expected, found = logged(whole), logged(killed)
    assert sorted(found) == list(range(1, 41))
    # Every step, those repeated since the last checkpoint included, has the loss of the uninterrupted run to the bit:
    # it saw the same sets with the same noise from the same weights.
    assert {step: set(values) for step, values in found.items()} == {s: set(v) for s, v in expected.items()}
    assert any(len(values) > 1 for values in found.values()), "no step was repeated: the kill came too late"


def test_a_finished_run_is_trained_further_and_a_half_written_checkpoint_passed_over(tmp_path, pretrain):
    run = tmp_path / "run"
    pretrain(run, "training.max_steps=4", "training.checkpoint_every=2")
    shutil.copytree(run / "checkpoints" / "step=4", run / "checkpoints" / "step=5")
    (run / "checkpoints" / "step=5-unfinished").touch()
    (run / "checkpoints" / "step=5" / "weights" / "metadata.json").unlink()
    done = pretrain(run, "training.max_steps=12", "training.checkpoint_every=2")
    assert "going on from step=4" in done.stderr
    rates = {step: values[-1] for step, values in logged(run, "train/learning_rate").items()}
    assert max(rates[step] for step in range(5, 13)) > 2 * rates[4], "trained further at the rate it had come down to"
    assert "is done" in pretrain(run, "training.max_steps=12").stderr


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
