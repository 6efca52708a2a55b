"""Recipes' jobs on a real Slurm of two nodes: a run that Slurm interrupts ends as if it never had been."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs import logged, pretrain_arguments, saved_weights
from slurm_cluster import Cluster, missing_programs, wait_for

pytestmark = pytest.mark.slurm
SUBMIT = Path(__file__).parents[1] / "recipes" / "slurm" / "submit.sh"
SETTINGS = (
    *("training.max_steps=60", "training.checkpoint_every=10", "training.validate_every=30"),
    "training.sets_per_batch=1",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if missing := missing_programs():
        pytest.skip(f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge")
    # A path of a socket may have a hundred characters.
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def expected(tmp_path_factory, pretrain) -> tuple[dict[int, list[float]], dict[str, bytes]]:
    """Losses and weights of the run that nothing interrupts."""
    run = tmp_path_factory.mktemp("expected") / "run"
    pretrain(run, *SETTINGS, "compute.devices=4")
    return logged(run), saved_weights(run)


@pytest.fixture
def submit(cluster, environment, workshop, tmp_path) -> Callable[..., str]:
    """Queue a command as the recipes do, without a container; return the number of the job."""

    def run(*task: str, **settings: str) -> str:
        programs = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{cluster.environment['PATH']}"}
        where = {"ACCOUNT": "nobody", "IMAGE": "none", "MPI": "none", "OUT": str(tmp_path), "GPUS": "2", "NODES": "2"}
        store = {"STORE": str(workshop / "store"), "TIME": "00:30:00"}
        done = subprocess.run(
            [SUBMIT, "scale-job", *task],
            env={**environment, **cluster.environment, **programs, **where, **store, **settings},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    return run


@pytest.fixture
def training(submit, workshop, tmp_path) -> Callable[..., tuple[str, Path]]:
    """Queue a training of four tasks on two nodes; return the number of the job, and its run once it has begun."""

    def start(**settings: str) -> tuple[str, Path]:
        run = tmp_path / "run"
        task = pretrain_arguments(workshop, run, *SETTINGS, "compute.devices=2", "compute.nodes=2")
        task[task.index("--store") + 1] = "{store}"
        number = submit("bionemo-scale", *task, **settings)
        wait_for(lambda: max(logged(run), default=0) > 12, 300)
        return number, run

    return start


def log_of(run: Path, number: str) -> str:
    # Four tasks write to it at once, which may cut a character of a progress bar in two.
    return (run.parent / f"slurm-{number}.log").read_text(errors="replace")


def hurry(cluster: Cluster, number: str) -> None:
    """Let a job that was put back into the queue start now; Slurm makes it wait for two minutes."""
    cluster.wait(number, "PENDING", "RUNNING", "COMPLETED", seconds=90)
    if cluster.job(number)["JobState"] == "PENDING":
        cluster.command("scontrol", "update", f"JobId={number}", "StartTime=now")


def assert_as_if_never_interrupted(run: Path, expected) -> None:
    losses, weights = expected
    assert {step: set(values) for step, values in logged(run).items()} == {s: set(v) for s, v in losses.items()}
    assert saved_weights(run) == weights


def requeue(cluster: Cluster, number: str, submit) -> None:
    cluster.command("scontrol", "requeue", number)


def preempt(cluster: Cluster, number: str, submit) -> None:
    """A job of a partition of higher priority wants both nodes."""
    urgent = submit("true", PARTITION="urgent")
    cluster.wait(urgent, "COMPLETED")


def set_a_node_down(cluster: Cluster, number: str, submit) -> None:
    cluster.command("scontrol", "update", f"NodeName={cluster.nodes[1]}", "State=DOWN", "Reason=test")
    cluster.wait(number, "PENDING")
    # Where the node has come back by itself, there is nothing to resume.
    cluster.command("scontrol", "update", f"NodeName={cluster.nodes[1]}", "State=RESUME", check=False)


def kill_a_node(cluster: Cluster, number: str, submit) -> None:
    cluster.kill_node(cluster.nodes[1])
    cluster.wait(number, "PENDING")
    cluster.start_node(cluster.nodes[1])
    wait_for(
        lambda: (
            cluster.command("sinfo", "-h", "-o", "%T", "-n", cluster.nodes[1]).split()[0]
            in ("idle", "mixed", "allocated")
        )
    )


@pytest.mark.parametrize("happen", [requeue, preempt, set_a_node_down, kill_a_node])
def test_a_run_goes_on_to_the_bit_after(happen, cluster, training, submit, expected):
    number, run = training()
    happen(cluster, number, submit)
    hurry(cluster, number)
    found = cluster.wait(number, "COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED", seconds=400)
    assert found["JobState"] == "COMPLETED", log_of(run, number)[-3000:]
    assert found["Restarts"] == "1"
    assert "going on from step=" in log_of(run, number)
    assert_as_if_never_interrupted(run, expected)


def test_a_job_whose_time_is_up_saves_and_goes_back_into_the_queue(cluster, training, expected):
    number, run = training(TIME="00:02:00", NOTICE="60")
    # Slurm gives the notice up to a minute early. What is left after it takes less than the time limit.
    cluster.wait(number, "PENDING", seconds=200)
    assert "stopped by SIGTERM after step" in log_of(run, number)
    hurry(cluster, number)
    assert cluster.wait(number, "COMPLETED", "FAILED", "TIMEOUT", seconds=300)["JobState"] == "COMPLETED"
    assert_as_if_never_interrupted(run, expected)


def test_a_cancelled_job_stays_out_of_the_queue_and_goes_on_when_queued_again(cluster, training, expected):
    number, run = training()
    cluster.command("scancel", "--full", "--signal=TERM", number)
    assert cluster.wait(number, "CANCELLED", "COMPLETED", "FAILED", seconds=90)["JobState"] == "FAILED"
    cluster.command("scancel", number)
    assert "stopped by SIGTERM after step" in log_of(run, number)
    again, run = training()
    assert cluster.wait(again, "COMPLETED", "FAILED", seconds=300)["JobState"] == "COMPLETED"
    assert "going on from step=" in log_of(run, again)
    assert_as_if_never_interrupted(run, expected)


def test_a_chain_of_jobs_as_an_array_trains_once(cluster, training, expected):
    number, run = training(SBATCH_ARRAY_INX="1-2%1")
    wait_for(lambda: not cluster.command("squeue", "-h", "-j", number).split(), 400)
    assert_as_if_never_interrupted(run, expected)


def test_two_jobs_stage_one_store_at_once(cluster, submit, workshop, tmp_path):
    local = tmp_path / "local"
    settings = {"LOCAL_DIR": str(local), "NODES": "1"}
    jobs = [submit("bash", "-c", f"echo {{store}} > {tmp_path}/staged-$SLURM_JOB_ID", **settings) for _ in range(2)]
    for number in jobs:
        assert cluster.wait(number, "COMPLETED", "FAILED")["JobState"] == "COMPLETED", log_of(tmp_path / "x", number)
    (staged,) = {(tmp_path / f"staged-{number}").read_text().strip() for number in jobs}
    assert (Path(staged) / "data.npy").read_bytes() == (workshop / "store" / "data.npy").read_bytes()
    assert sorted(path.suffix for path in local.iterdir()) == ["", ".lock", ".log"]
