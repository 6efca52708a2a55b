"""`nemo scale ...` as nemo-run calls it: factories, executors, and what a mistake is answered with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bionemo.scale.nemo.executors import EXECUTORS
from bionemo.scale.nemo.plugin import OneSentence
from bionemo.scale.nemo.recipes import TASKS

WHERE = ["store=/data/store", "split=/data/split.toml", "out=/data/run"]
TORCHRUN = ["executor=torchrun", "executor.ntasks_per_node=4"]
REQUIRED = {"pretrain": WHERE, "finetune": [*WHERE, "start=/data/old"], "throughput": ["out=/data/timed"]}
ENTRIES = {task.__name__: task for task in TASKS}


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    """nemo-run leaves its experiments in a folder that the test throws away."""
    monkeypatch.setattr("nemo_run.config._NEMORUN_HOME", str(tmp_path))
    # The shell it starts to make a folder reads this one's input.
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        yield


@pytest.fixture
def nemo(capsys):
    """What `nemo scale TASK --factory FACTORY ...` prints and ends with."""

    def run(task: str, factory: str | None, *arguments: str, dryrun: bool = True) -> tuple[int, str]:
        context = OneSentence(name=task, factory=factory, dryrun=dryrun, skip_confirmation=True)
        code = 0
        try:
            context.cli_execute(ENTRIES[task], list(arguments))
        except SystemExit as end:
            code = end.code
        told = capsys.readouterr()
        return code, told.err.strip() if code else told.out

    return run


@pytest.mark.parametrize(
    ("task", "factory"), [(task.__name__, name) for task, known in TASKS.items() for name in known]
)
def test_a_dry_run_shows_the_task_of_every_factory_and_starts_nothing(nemo, monkeypatch, task, factory):
    monkeypatch.setattr("nemo_run.run", lambda **_: pytest.fail("it was started"))
    code, shown = nemo(task, factory, *REQUIRED[task], "training.seed=77")
    assert code == 0
    assert f":{task}\n" in shown
    assert "seed=77" in shown


def test_the_command_says_nothing_of_other_libraries(tmp_path):
    command = [str(Path(sys.executable).with_name("nemo")), "scale", "pretrain", "--factory", "scale_tiny", *WHERE]
    environment = os.environ | {"NEMORUN_HOME": str(tmp_path)}
    asked = dict(env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=tmp_path)
    shown = subprocess.run([*command, "--dryrun", "--yes"], **asked)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "max_steps=800" in shown.stdout


def test_a_model_is_changed_by_name(nemo):
    _, shown = nemo(
        "pretrain", "scale_tiny", *WHERE, "model=scale_280m", "training.max_steps=5", "training.warmup_steps=1"
    )
    assert "num_layers=13" in shown
    assert "max_steps=5" in shown


def test_a_name_that_happens_to_be_a_factory_stays_a_path(nemo):
    code, shown = nemo("pretrain", "scale_tiny", *WHERE[:2], "out=scale_small")
    assert code == 0
    assert "'scale_small'" in shown


def test_torchrun_gives_the_task_its_processes(nemo):
    _, shown = nemo("pretrain", "scale_tiny", *WHERE, "executor=torchrun", "executor.ntasks_per_node=2")
    assert "launcher='torchrun'" in shown
    assert "devices=2" in shown


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("scale_tny", WHERE, "no factory 'scale_tny': did you mean 'scale_tiny'"),
        (None, WHERE, "no --factory is given: choose one of scale_tiny, "),
        ("scale_tiny", WHERE[:2], "out is not given: add out=..."),
        ("scale_tiny", [*WHERE, "training.max_stps=3"], "did you mean 'training.max_steps'"),
        ("scale_tiny", [*WHERE, "training.max_steps=3.5"], "training.max_steps takes a whole number, not '3.5'"),
        ("scale_tiny", [*WHERE, "model=scale_smal"], "no setting 'model'"),
        ("scale_tiny", [*WHERE, "executor=torchrn"], "no executor 'torchrn': did you mean 'torchrun'"),
        ("scale_tiny", [*WHERE, "executor.retries=1"], "executor.retries=1 is given and no executor"),
        ("scale_tiny", [*WHERE, *TORCHRUN, "executor.retris=1"], "no setting 'retris': did you mean 'retries'"),
        ("scale_tiny", [*WHERE, *TORCHRUN, "executor.retries=two"], "executor.retries does not take 'two'"),
        ("scale_tiny", [*WHERE, *TORCHRUN, "compute.devices=3"], "compute.devices=3 and the executor's 4 contradict"),
        ("scale_tiny", [*WHERE, "executor=slurm"], "queue the command with recipes/slurm/submit.sh"),
    ],
)
def test_a_mistake_is_one_sentence(nemo, factory, arguments, message):
    code, told = nemo("pretrain", factory, *arguments)
    assert code == 2
    assert message in told
    assert told.startswith("error: ")
    assert "\n" not in told


def test_every_executor_has_a_factory_of_its_name():
    assert list(EXECUTORS) == ["local", "torchrun"]
