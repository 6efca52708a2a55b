"""Jobs for Slurm: the text that is queued, what is refused, and real tasks under a stand-in for srun."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import logged, pretrain_arguments, saved_weights, wait_for
from lightning.fabric.plugins.environments import SLURMEnvironment

ROOT = Path(__file__).parents[1]
SLURM = ROOT / "recipes" / "slurm"
GOLDEN = Path(__file__).with_name("golden") / "job.sbatch"
LINTER = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def cluster(tmp_path, environment):
    """What a job needs, and the commands of Slurm in PATH; its log is ``calls``."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "scontrol", "sbatch"):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_slurm.py")} {name} "$@"\n')
        script.chmod(0o755)
    (programs / "bionemo-scale").write_text(f'#!/bin/sh\nexec {sys.executable} -m bionemo.scale.cli "$@"\n')
    (programs / "bionemo-scale").chmod(0o755)
    (tmp_path / "image.sqsh").touch()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "manifest.json").write_text("{}")
    return {
        **environment,
        "PATH": f"{programs}{os.pathsep}{environment['PATH']}",
        "FAKE_SLURM_LOG": str(tmp_path / "calls"),
        **{"ACCOUNT": "account", "IMAGE": str(tmp_path / "image.sqsh"), "MOUNTS": str(tmp_path)},
        **{"STORE": str(tmp_path / "store"), "OUT": str(tmp_path / "run")},
        **{"NODES": "1", "GPUS": "2"},
    }


def submit(cluster, *task, code: int = 0, **changes) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [SLURM / "submit.sh", "scale-job", *map(str, task)],
        env={**cluster, **changes},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def start(cluster, nodes: int = 1, per_node: int = 2) -> subprocess.Popen:
    """Run what was queued, as Slurm does on the first node."""
    queued = Path(cluster["FAKE_SLURM_LOG"]).with_name("queued.sh")
    given = {
        "SLURM_JOB_ID": "4242",
        "SLURM_JOB_NAME": "scale-job",
        "SLURM_JOB_NODELIST": ",".join(nodes * ["localhost"]),
        "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS": str(nodes * per_node),
        "SLURM_NTASKS_PER_NODE": str(per_node),
    }
    return subprocess.Popen(
        ["bash", queued], env={**cluster, **given}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def calls(cluster) -> list[list[str]]:
    return [json.loads(line) for line in Path(cluster["FAKE_SLURM_LOG"]).read_text().splitlines()]


def test_the_text_of_a_job(cluster, tmp_path):
    text = submit(
        *(cluster, "bionemo-scale", "pretrain", "--store", "{store}", "--split", tmp_path / "store", "--out", "run"),
        *("compute.devices=2", "training.wandb_project=two words"),
        **{"DRYRUN": "1", "PARTITION": "gpu", "LOCAL_DIR": "/raid/stores"},
    ).stdout
    body = (SLURM / "checks.sh").read_text() + "\n" + (SLURM / "job.sh").read_text()
    assert text.endswith(body)
    assert text.removesuffix(body).replace(str(tmp_path), "/lustre/me") == GOLDEN.read_text()
    assert LINTER, "shellcheck is not installed: make setup"
    found = subprocess.run([LINTER, "-"], input=text, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    assert not Path(cluster["FAKE_SLURM_LOG"]).exists(), "a dry run queues nothing"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ACCOUNT": ""}, "ACCOUNT is not set: give the Slurm account"),
        ({"IMAGE": ""}, "IMAGE is not set: give the container image"),
        ({"IMAGE": "/none/image.sqsh"}, "IMAGE=/none/image.sqsh is not on "),
        ({"MOUNTS": "/none/data:/data"}, "/none/data of MOUNTS is not on "),
        (
            {"MOUNTS": "/usr"},
            "/store is in none of MOUNTS=/usr:/usr, so the container would not see it: add its folder",
        ),
        ({"STORE": ""}, "STORE is not set: give the folder that"),
        ({"STORE": "/none/store"}, "STORE=/none/store is no store on "),
        ({"OUT": "run"}, "OUT=run is no absolute path: begin it with /"),
        ({"NODES": "many"}, "NODES=many is no whole number above 0"),
        ({"SPLIT": "/none/split.toml"}, "/none/split.toml, which the command names, does not exist: mend the path"),
        ({"PATH": "no sbatch"}, "there is no sbatch on "),
    ],
)
def test_what_is_missing_is_one_sentence_before_anything_is_queued(cluster, tmp_path, changes, sentence):
    split = [changes["SPLIT"]] if "SPLIT" in changes else []
    if "PATH" in changes:
        # A machine for tests may have a Slurm of its own.
        (tmp_path / "programs").mkdir()
        for name in ("bash", "cat", "dirname", "hostname", "mkdir"):
            (tmp_path / "programs" / name).symlink_to(str(shutil.which(name)))
        changes = {"PATH": str(tmp_path / "programs")}
    done = submit(cluster, "bionemo-scale", "pretrain", "--store", "{store}", *split, code=2, **changes)
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path(cluster["FAKE_SLURM_LOG"]).exists()


@pytest.mark.parametrize(
    "task",
    [
        ("bionemo-scale", "pretrain", "--store", "{store}", "--split", "split.toml", "--out", "run"),
        ("nemo", "scale", "pretrain", "--factory", "scale_tiny", "store={store}", "split=split.toml", "out=run"),
    ],
    ids=["bionemo-scale", "nemo"],
)
def test_a_setting_that_does_not_exist_is_refused_before_the_job_is_queued(cluster, task):
    done = submit(cluster, *task, "training.max_stps=1", code=2)
    assert "did you mean 'training.max_steps'" in done.stderr
    assert not Path(cluster["FAKE_SLURM_LOG"]).exists()
    submit(cluster, *task, "training.max_steps=100")
    assert [program for program, *_ in calls(cluster)] == ["sbatch"]


def test_a_machine_without_our_commands_says_that_settings_are_not_checked(cluster, tmp_path):
    (tmp_path / "bin" / "bionemo-scale").unlink()
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = submit(cluster, "bionemo-scale", "pretrain", "--store", "{store}", "a.typo=1", PATH=path)
    assert done.stderr.startswith("note: the settings are not checked before the job starts, since bionemo-scale")


@pytest.mark.parametrize("folder", sorted(str(path.parent.relative_to(ROOT)) for path in ROOT.glob("*/*/slurm.sh")))
def test_the_job_of_a_recipe(cluster, tmp_path, folder):
    (tmp_path / "split.toml").write_text("[training]\n")
    given = {name: cluster[name] for name in ("PATH", "IMAGE", "FAKE_SLURM_LOG")} | {"SCALE_SCREENS": str(tmp_path)}
    script = ROOT / folder / "slurm.sh"

    def queue(**changes) -> subprocess.CompletedProcess:
        return subprocess.run(
            [script, "training.seed=1"],
            env={**given, **changes},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    done = queue(ACCOUNT="account", FROM=str(tmp_path / "store"), DRYRUN="1")
    assert done.returncode == 0, done.stderr
    (task,) = [line for line in done.stdout.splitlines() if line.startswith("task=")]
    words = shlex.split(task.removeprefix("task=(").removesuffix(")"))
    if words[0] == "env":
        # A module of experiments/, which the container sees beside the results.
        assert words[1:4] == ["-C", str(ROOT), f"SCALE_SCREENS={tmp_path}"]
        started = subprocess.run([*words[: words.index("--out")], "--help"], env=given, capture_output=True, text=True)
        assert (started.returncode, "usage: " in started.stdout) == (0, True), started.stderr
        assert f"python -m {folder.replace('/', '.')}.run" in " ".join(words)
    else:
        assert words[0] in ("bionemo-scale", "bionemo-bench")
    assert words[-1] == "training.seed=1"
    headers = dict(re.findall(r"#SBATCH --([a-z-]+)=(\S+)", done.stdout))
    if "pretrain" in folder:
        # What the README starts by hand, on the job's GPUs.
        readme = (script.parent / "README.md").read_text()
        assert f"--recipe {words[words.index('--recipe') + 1]}" in readme
        overrides = (script.parent / "overrides.txt").read_text().splitlines()
        assert {line for line in overrides if not line.startswith("#")} < set(words)
        assert f"compute.devices={headers['gpus-per-node']}" in words
        assert f"compute.nodes={headers['nodes']}" in words
    refused = queue(FROM=str(tmp_path / "store"))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("error: ACCOUNT is not set")
    assert not Path(cluster["FAKE_SLURM_LOG"]).exists()


def test_a_store_that_a_node_does_not_see_is_one_sentence_before_a_task_starts(cluster, tmp_path):
    submit(cluster, "true", "{store}")
    shutil.rmtree(tmp_path / "store")
    with start(cluster) as process:
        told = process.stderr.read()
    assert process.returncode == 2
    assert told.startswith(f"error: STORE={tmp_path / 'store'} is no store on ")
    assert told.count("\n") == 1
    assert "srun" not in [program for program, *_ in calls(cluster)]


def test_each_task_has_the_variables_that_lightning_reads(cluster, tmp_path, monkeypatch):
    submit(cluster, "bash", "-c", f"env | grep -E '^(SLURM|MASTER)_' > {tmp_path}/task_$SLURM_PROCID", NODES="2")
    with start(cluster, nodes=2) as process:
        pass
    assert process.returncode == 0
    found = []
    for task in tmp_path.glob("task_*"):
        for line in task.read_text().splitlines():
            monkeypatch.setenv(*line.split("=", 1))
        assert SLURMEnvironment.detect()
        of_task = SLURMEnvironment()
        of_task.validate_settings(num_devices=2, num_nodes=2)
        assert (of_task.world_size(), of_task.main_address, of_task.main_port) == (4, "localhost", 24242)
        found.append((of_task.global_rank(), of_task.local_rank(), of_task.node_rank()))
    assert sorted(found) == [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1)]


@pytest.mark.parametrize(("code", "cancelled", "requeued"), [(143, False, True), (143, True, False), (1, False, False)])
def test_a_job_that_was_told_to_stop_goes_back_into_the_queue_unless_it_was_cancelled(
    cluster, tmp_path, code, cancelled, requeued
):
    submit(cluster, "bash", "-c", f"touch {tmp_path}/up; sleep {1 if cancelled else 0}; exit {code}", GPUS="1")
    with start(cluster, per_node=1) as process:
        if cancelled:
            wait_for((tmp_path / "up").exists)
            process.send_signal(signal.SIGTERM)
    assert process.returncode == code
    assert (["scontrol", "requeue", "4242"] in calls(cluster)) == requeued


def test_a_job_of_an_array_goes_back_into_the_queue_alone(cluster):
    submit(cluster, "bash", "-c", "exit 143", GPUS="1")
    with start({**cluster, "SLURM_ARRAY_JOB_ID": "4242", "SLURM_ARRAY_TASK_ID": "2"}, per_node=1) as process:
        pass
    assert (process.returncode, calls(cluster)[-1]) == (143, ["scontrol", "requeue", "4242_2"])


def test_a_task_that_fails_is_told_from_those_that_are_ended_for_it(cluster):
    """Slurm ends them by SIGTERM, as if it took the machine away, and srun answers with the highest code."""
    submit(cluster, "bash", "-c", "[[ $SLURM_PROCID == 0 ]] && exit 2; sleep 60")
    with start(cluster) as process:
        pass
    assert process.returncode == 2
    assert ["scontrol", "requeue", "4242"] not in calls(cluster)


def test_real_screens_are_not_queued_without_their_folder(cluster, tmp_path):
    done = subprocess.run(
        [ROOT / "experiments" / "real_screens" / "slurm.sh"],
        env={**cluster, "SCALE_SCREENS": str(tmp_path / "none")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: SCALE_SCREENS={tmp_path / 'none'} is no folder: name the one")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_store_is_staged_once_and_whole(cluster, workshop, tmp_path):
    local = tmp_path / "local"
    settings = {"STORE": str(workshop / "store"), "MOUNTS": f"{tmp_path},{workshop}", "LOCAL_DIR": str(local)}
    submit(cluster, "bash", "-c", "echo {store}", NODES="2", GPUS="1", **settings)

    def staged() -> Path:
        with start(cluster, nodes=2, per_node=1) as process:
            told = process.stdout.read()
        assert process.returncode == 0, process.stderr.read()
        (path,) = set(told.split())
        return Path(path)

    first = staged()
    assert first.parent == local
    data = (first / "data.npy").read_bytes()
    assert data == (workshop / "store" / "data.npy").read_bytes()
    made = first.stat().st_ctime_ns
    assert staged().stat().st_ctime_ns == made, "staged again"
    # A disk that lost part of a file: it is staged anew.
    (first / "data.npy").write_bytes(data[:-8])
    assert (staged() / "data.npy").read_bytes() == data
    assert sorted(path.suffix for path in local.iterdir()) == ["", ".lock", ".log"]
    mounts = {argument for call in calls(cluster) for argument in call if argument.startswith("--container-mounts")}
    assert mounts == {f"--container-mounts={tmp_path}:{tmp_path},{workshop}:{workshop},{local}:{local}"}


@pytest.mark.slow
def test_a_store_that_is_damaged_where_it_lies_is_not_staged(cluster, workshop, tmp_path):
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(workshop / "store", tmp_path / "store")
    data = tmp_path / "store" / "data.npy"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    submit(cluster, "true", "{store}", LOCAL_DIR=str(tmp_path / "local"), GPUS="1")
    with start(cluster, per_node=1) as process:
        told = process.stderr.read()
    assert process.returncode == 2
    assert told.count("\n") == 1
    assert "could not be staged to" in told
    assert "'data.npy'" in told
    assert sorted(path.suffix for path in (tmp_path / "local").iterdir()) == [".lock", ".log"]


@pytest.mark.slow
def test_two_nodes_train_are_preempted_and_go_on_to_the_bit(cluster, workshop, tmp_path, pretrain):
    settings = ("training.max_steps=40", "training.checkpoint_every=10", "training.validate_every=40")
    settings = (*settings, "training.sets_per_batch=2")
    whole, run = tmp_path / "whole", tmp_path / "run"
    pretrain(whole, *settings, "compute.devices=2")

    task = pretrain_arguments(workshop, run, *settings, "compute.devices=1", "compute.nodes=2")
    task[task.index("--store") + 1] = "{store}"
    where = {"STORE": str(workshop / "store"), "MOUNTS": f"{tmp_path},{workshop}", "LOCAL_DIR": str(tmp_path / "local")}
    submit(cluster, "bionemo-scale", *task, NODES="2", GPUS="1", **where)
    with start(cluster, nodes=2, per_node=1) as process:
        wait_for(lambda: max(logged(run), default=0) > 12)
        # Slurm signals the tasks, not the script.
        os.kill(int(Path(cluster["FAKE_SLURM_LOG"] + ".pid").read_text()), signal.SIGTERM)
        told = process.stderr.read()
    assert process.returncode == 143, told
    assert "stopped by SIGTERM after step" in told
    assert calls(cluster)[-1] == ["scontrol", "requeue", "4242"]
    assert max(logged(run)) < 40, "the run ended before it was preempted"

    with start(cluster, nodes=2, per_node=1) as process:
        told = process.stderr.read()
    assert process.returncode == 0, told
    assert "going on from step=" in told
    expected, found = logged(whole), logged(run)
    assert {step: set(values) for step, values in found.items()} == {s: set(v) for s, v in expected.items()}
    assert saved_weights(run) == saved_weights(whole)
