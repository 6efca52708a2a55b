"""`nemo scale ...` as nemo-run calls it: factories, executors, and what a mistake is answered with."""

import os
import subprocess

import pytest

from bionemo.scale.nemo import plugin
from bionemo.scale.nemo.executors import EXECUTORS, configured_executor
from bionemo.scale.nemo.plugin import OneSentence
from bionemo.scale.nemo.recipes import TASKS

WHERE = ["store=/data/store", "split=/data/split.toml", "out=/data/run"]
SLURM = [
    *("executor=slurm", "executor.account=lab", "executor.partition=gpu", "executor.container_image=image"),
    *("executor.container_mounts=[/data:/data,/scratch/runs:/runs]", "executor.nodes=2", "executor.gpus_per_node=4"),
    "executor.ntasks_per_node=4",
]
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
    command = ["nemo", "scale", "pretrain", "--factory", "scale_tiny", *WHERE]
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


def test_a_slurm_job_is_shown_to_the_letter(nemo, tmp_path):
    code, shown = nemo("pretrain", "scale_tiny", *WHERE, *SLURM)
    assert code == 0
    script = shown[shown.index("#!/bin/bash") :]
    for line in (
        *("#SBATCH --account=lab", "#SBATCH --partition=gpu", "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4"),
        *("#SBATCH --gpus-per-node=4", "#SBATCH --mem=0", "#SBATCH --exclusive", "#SBATCH --signal=TERM@120"),
        *("export MASTER_ADDR=$head_node_ip", "export TORCHX_MAX_RETRIES=0"),
    ):
        assert line in script.splitlines()
    (srun,) = (line for line in script.splitlines() if line.startswith("srun"))
    assert "--container-image image" in srun
    assert "--container-mounts /data:/data,/scratch/runs:/runs," in srun
    assert "--mpi=pmix" in srun
    assert "nodes=2" in shown
    assert "devices=4" in shown
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert not list(tmp_path.glob("experiments/*/*/*")), "a dry run leaves something behind"


@pytest.mark.parametrize(("code", "times"), [(143, 1), (2, 0), (0, 0)])
def test_only_a_preempted_job_is_put_back_in_the_queue(tmp_path, code, times):
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@"\n')
    (tmp_path / "scontrol").chmod(0o755)
    setup = configured_executor("slurm", [argument.removeprefix("executor.") for argument in SLURM[1:]]).setup_lines
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", f"{setup}\nexit {code}"], env=environment, capture_output=True, text=True)
    assert done.stdout == "requeue 7\n" * times
    assert done.returncode == code


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("scale_tny", WHERE, "no factory 'scale_tny' (did you mean 'scale_tiny'?)"),
        (None, WHERE, "no --factory is given: choose one of scale_tiny, "),
        ("scale_tiny", WHERE[:2], "out is not given: add out=..."),
        ("scale_tiny", [*WHERE, "training.max_stps=3"], "(did you mean 'training.max_steps'?)"),
        ("scale_tiny", [*WHERE, "training.max_steps=3.5"], "training.max_steps takes a whole number, not '3.5'"),
        ("scale_tiny", [*WHERE, "model=scale_smal"], "no setting 'model'"),
        ("scale_tiny", [*WHERE, "executor=slrm"], "no executor 'slrm' (did you mean 'slurm'?)"),
        ("scale_tiny", [*WHERE, "executor.account=x"], "executor.account=x is given and no executor"),
        ("scale_tiny", [*WHERE, *SLURM, "executor.acount=x"], "no setting 'acount' (did you mean 'account'?)"),
        ("scale_tiny", [*WHERE, *SLURM, "executor.nodes=two"], "executor.nodes does not take 'two'"),
        ("scale_tiny", [*WHERE, *SLURM, "executor.container_mounts=[/data]"], "'/data', which is not of the form"),
        ("scale_tiny", [*WHERE, *SLURM, "compute.devices=3"], "compute.devices=3 and the executor's 4 contradict"),
        *(
            ("scale_tiny", [*WHERE, *(a for a in SLURM if needed not in a)], f"executor.{needed} is not given")
            for needed in ("account", "partition", "container_image", "container_mounts")
        ),
    ],
)
def test_a_mistake_is_one_sentence(nemo, factory, arguments, message):
    code, told = nemo("pretrain", factory, *arguments)
    assert code == 2
    assert message in told
    assert told.startswith("error: ")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("image", "mounts", "message"),
    [
        ("/absent/image.sqsh", "[/:/data]", "executor.container_image=/absent/image.sqsh is not there"),
        ("image", "[/absent:/data]", "has '/absent:/data', and /absent is not there"),
        ("image", "[/:/elsewhere]", "store=/data/store is in none of the folders that the container sees (/elsewhere)"),
    ],
)
def test_a_job_that_would_not_find_its_files_is_not_submitted(nemo, monkeypatch, image, mounts, message):
    monkeypatch.setattr(plugin.run, "Experiment", lambda *_, **__: pytest.fail("it was submitted"))
    changed = [f"executor.container_image={image}", f"executor.container_mounts={mounts}"]
    code, told = nemo("pretrain", "scale_tiny", *WHERE, *SLURM, *changed, dryrun=False)
    assert code == 2
    assert message in told


def test_every_executor_has_a_factory_of_its_name():
    assert list(EXECUTORS) == ["local", "torchrun", "slurm"]
