"""Recipes' jobs on a real Slurm of two nodes: a run that Slurm interrupts ends as if it never had been."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs import logged, pretrain_arguments, saved_weights
from slurm_cluster import Cluster, missing_programs, wait_for

pytestmark = pytest.mark.slurm
SUBMIT = Path(__file__).parents[1] / "recipes" / "slurm" / "submit.sh"
# So many that a job that Slurm takes seconds to interrupt has not ended by then.
SETTINGS = ("training.max_steps=300", "training.checkpoint_every=50", "training.validate_every=150")


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
    pretrain(run, *SETTINGS, "training.sets_per_batch=2", "compute.devices=2")
    return logged(run), saved_weights(run)


@pytest.fixture
def submit(cluster, environment, workshop, tmp_path) -> Iterator[Callable[..., str]]:
    """Queue a command as the recipes do, without a container; return the number of the job."""
    numbers = []

    def run(*task: str, **settings: str) -> str:
        programs = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{cluster.environment['PATH']}"}
        where = {"ACCOUNT": "nobody", "IMAGE": "none", "MPI": "none", "OUT": str(tmp_path), "GPUS": "1", "NODES": "2"}
        store = {"STORE": str(workshop / "store"), "TIME": "00:30:00"}
        done = subprocess.run(
            [SUBMIT, "scale-job", *task],
            env={**environment, **cluster.environment, **programs, **where, **store, **settings},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        numbers.append(done.stdout.split()[-1])
        return numbers[-1]

    yield run
    cluster.command("scancel", *numbers, check=False)


@pytest.fixture
def train(submit, workshop, tmp_path) -> Callable[..., tuple[str, Path]]:
    """Queue a training of a task on each of two nodes; return the number of the job, and its run."""

    def start(**settings: str) -> tuple[str, Path]:
        run = tmp_path / "run"
        task = pretrain_arguments(workshop, run, *SETTINGS, "training.sets_per_batch=2", "compute.nodes=2")
        task[task.index("--store") + 1] = "{store}"
        return submit("bionemo-scale", *task, **settings), run

    return start


def log_of(run: Path, number: str) -> str:
    # Several tasks write to it at once, which may cut a character of a progress bar in two.
    file = run.parent / f"slurm-{number}.log"
    return file.read_text(errors="replace") if file.exists() else ""


def last_step(run: Path) -> int:
    return max(logged(run), default=0)


def runs(cluster: Cluster, number: str) -> bool:
    """Tell whether a job runs. One that was put back into the queue starts now, where Slurm would wait two minutes."""
    state = cluster.job(number)["JobState"]
    if state == "PENDING":
        time.sleep(3)  # Slurm counts in seconds, and takes what starts in the second of a requeue for what it has ended
        cluster.command("scontrol", "update", f"JobId={number}", "StartTime=now", check=False)
    return state == "RUNNING"


def ended(cluster: Cluster, number: str) -> str:
    wait_for(lambda: not runs(cluster, number) and cluster.job(number)["JobState"] in ENDS)
    return cluster.job(number)["JobState"]


def assert_as_if_never_interrupted(run: Path, expected) -> None:
    losses, weights = expected
    assert {step: set(values) for step, values in logged(run).items()} == {s: set(v) for s, v in losses.items()}
    assert saved_weights(run) == weights


def requeue(cluster: Cluster, number: str, **_) -> None:
    cluster.command("scontrol", "requeue", number)


def preempt(cluster: Cluster, submit, **_) -> None:
    """A job of a partition of higher priority wants both nodes."""
    urgent = submit("true", PARTITION="urgent")
    cluster.wait(urgent, "COMPLETED")


def set_a_node_down(cluster: Cluster, number: str, **_) -> None:
    cluster.command("scontrol", "update", f"NodeName={cluster.nodes[1]}", "State=DOWN", "Reason=test")
    cluster.wait(number, "PENDING")
    # Where the node has come back by itself, there is nothing to resume.
    cluster.command("scontrol", "update", f"NodeName={cluster.nodes[1]}", "State=RESUME", check=False)


def kill_a_node(cluster: Cluster, number: str, **_) -> None:
    cluster.kill_node(cluster.nodes[1])
    cluster.wait(number, "PENDING")
    cluster.start_node(cluster.nodes[1])
    # Slurm repeats to the node what it could not be told: to end the job as it was. A job that starts before, as `runs`
    # lets it, would be ended by that.
    cluster.wait_until_idle()


def let_the_time_run_out(cluster: Cluster, number: str, run: Path, **_) -> None:
    """Set a time limit that is nearer than the notice.

    Slurm looks for such jobs twice a minute, and so small a run would have ended by then: its tasks are held until the
    notice is there, with which Slurm lets them go on.
    """
    notices = log_of(run, number).count("CANCELLED AT")
    cluster.command("scancel", "--signal=STOP", number)
    hours, minutes, _ = map(int, cluster.job(number)["RunTime"].split(":"))
    cluster.command("scontrol", "update", f"JobId={number}", f"TimeLimit={60 * hours + minutes + 4}")
    wait_for(lambda: log_of(run, number).count("CANCELLED AT") > notices)
    cluster.wait(number, "PENDING")
    # Else the time of the next start would be short from its beginning.
    cluster.command("scontrol", "update", f"JobId={number}", "TimeLimit=30")


ENDS = ("COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED", "TIMEOUT")
SAVED = "stopped by SIGTERM after step"
# What happens to the job, and what its log says of it.
INTERRUPTIONS = [
    (requeue, ("DUE TO JOB REQUEUE", SAVED)),
    (preempt, (SAVED,)),
    (set_a_node_down, ("DUE TO NODE FAILURE",)),
    (kill_a_node, ("Node failure on",)),
    (let_the_time_run_out, (SAVED,)),
]


def test_one_job_is_interrupted_in_five_ways_and_ends_as_if_it_never_had_been(cluster, train, submit, expected):
    number, run = train(NOTICE="240")
    for times, (happen, sentences) in enumerate(INTERRUPTIONS):
        done = last_step(run)
        wait_for(lambda done=done: runs(cluster, number) and last_step(run) > done + 5)
        before = len(log_of(run, number))
        happen(cluster=cluster, number=number, run=run, submit=submit)
        wait_for(lambda before=before: runs(cluster, number) and "going on from step=" in log_of(run, number)[before:])
        assert cluster.job(number)["Restarts"] == str(times + 1), happen.__name__
        told = log_of(run, number)[before:]
        assert all(sentence in told for sentence in sentences), f"{happen.__name__}: {told}"
    assert ended(cluster, number) == "COMPLETED", log_of(run, number)[-3000:]
    assert_as_if_never_interrupted(run, expected)


def test_a_cancelled_job_saves_and_stays_out_of_the_queue_and_the_next_of_its_chain_goes_on(cluster, train, expected):
    chain, run = train(SBATCH_ARRAY_INX="1-2%1")
    first, second = f"{chain}_1", f"{chain}_2"
    wait_for(lambda: last_step(run) > 25)
    number = cluster.job(first)["JobId"]
    cluster.command("scancel", first)
    assert ended(cluster, second) == "COMPLETED", log_of(run, number)[-3000:]
    assert (cluster.job(first)["JobState"], cluster.job(first)["Restarts"]) == ("CANCELLED", "0")
    assert SAVED in log_of(run, number)
    assert "going on from step=" in log_of(run, cluster.job(second)["JobId"])
    assert_as_if_never_interrupted(run, expected)


def test_a_recipe_of_nemo_is_queued_in_the_same_way(cluster, submit, workshop, tmp_path, expected):
    """Two tasks on each node with half the batch: the losses begin as those of two tasks, but for rounding."""
    run = tmp_path / "run"
    several = ("training.sets_per_batch=1", "compute.devices=2", "compute.nodes=2")
    given = pretrain_arguments(workshop, run, *SETTINGS, *several)
    settings = [word for word in given if "=" in word]
    where = ["store={store}", f"split={workshop / 'split.toml'}", f"out={run}"]
    number = submit("nemo", "scale", "pretrain", "--factory", "scale_tiny", *where, *settings, "--yes", GPUS="2")
    assert ended(cluster, number) == "COMPLETED", log_of(run, number)[-3000:]
    found, (losses, _) = logged(run), expected
    assert found.keys() == losses.keys()
    for step in range(1, 11):
        assert found[step] == pytest.approx(losses[step], rel=1e-3)


def test_a_job_that_fails_stays_out_of_the_queue(cluster, submit, tmp_path):
    number = submit("bash", "-c", "[[ $SLURM_PROCID == 2 ]] && exit 2; sleep 60", GPUS="2")
    assert ended(cluster, number) == "FAILED", log_of(tmp_path / "run", number)
    assert (cluster.job(number)["ExitCode"], cluster.job(number)["Restarts"]) == ("2:0", "0")


def test_two_jobs_stage_one_store_at_once(cluster, submit, workshop, tmp_path):
    local = tmp_path / "local"
    settings = {"LOCAL_DIR": str(local), "NODES": "1"}
    jobs = [submit("bash", "-c", f"echo {{store}} > {tmp_path}/staged-$SLURM_JOB_ID", **settings) for _ in range(2)]
    for number in jobs:
        assert cluster.wait(number, "COMPLETED", "FAILED")["JobState"] == "COMPLETED", log_of(tmp_path / "x", number)
    (staged,) = {(tmp_path / f"staged-{number}").read_text().strip() for number in jobs}
    assert (Path(staged) / "data.npy").read_bytes() == (workshop / "store" / "data.npy").read_bytes()
    assert sorted(path.suffix for path in local.iterdir()) == ["", ".lock", ".log"]
