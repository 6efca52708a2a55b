"""Recipes' jobs on a real Slurm of two nodes: a run that Slurm interrupts ends as if it never had been."""

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs import logged, pretrain_arguments, saved_weights
from slurm_cluster import Cluster, missing_programs, processes_of, wait_for

pytestmark = pytest.mark.slurm
SUBMIT = Path(__file__).parents[1] / "recipes" / "slurm" / "submit.sh"
# So many that a job that Slurm takes a second to interrupt has not ended by then.
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
        store = {"STORE": str(workshop / "store"), "TIME": "10:00:00"}
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


def saved_at(told: str) -> str:
    """Return the step that a log says was saved when the run was told to stop."""
    return re.findall(rf"{SAVED} (\d+), which is saved", told)[0]


def went_on_from(told: str) -> str:
    """Return the step that a log says the run went on from. Where it is the one that was saved, no cell is repeated."""
    return re.findall(rf"{GOING_ON}(\d+)", told)[0]


def assert_as_if_never_interrupted(run: Path, expected) -> None:
    losses, weights = expected
    assert {step: set(values) for step, values in logged(run).items()} == {s: set(v) for s, v in losses.items()}
    assert saved_weights(run) == weights


def hold(cluster: Cluster, number: str) -> None:
    """Stop the tasks where they are: so small a run would end before Slurm gives it notice, with which they go on."""
    cluster.command("scancel", "--signal=STOP", number)


def requeue(cluster: Cluster, number: str, **_) -> None:
    cluster.command("scontrol", "requeue", number)


def preempt(cluster: Cluster, number: str, submit, **_) -> None:
    """A job of a partition of higher priority wants both nodes."""
    hold(cluster, number)
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


def let_the_time_run_out(cluster: Cluster, number: str, log: Callable[[], str], **_) -> None:
    """Set a time limit that is nearer than the notice. Slurm looks for such jobs twice a minute."""
    notices = log().count("CANCELLED AT")
    hold(cluster, number)
    hours, minutes, _ = map(int, cluster.job(number)["RunTime"].split(":"))
    limit = 60 * hours + minutes + NOTICE // 60
    cluster.command("scontrol", "update", f"JobId={number}", f"TimeLimit={limit}")
    wait_for(lambda: log().count("CANCELLED AT") > notices)
    cluster.wait(number, "PENDING")
    # Else the time of the next start would be short from its beginning.
    cluster.command("scontrol", "update", f"JobId={number}", "TimeLimit=600")


ENDS = ("COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED", "TIMEOUT")
NOTICE = 1200  # seconds
SAVED, GOING_ON = "stopped by SIGTERM after step", "going on from step="
# What happens to the job, and what its log says of it.
INTERRUPTIONS = [
    (requeue, ("DUE TO JOB REQUEUE", SAVED)),
    (preempt, (SAVED,)),
    (set_a_node_down, ("DUE TO NODE FAILURE",)),
    (kill_a_node, ("Node failure on",)),
    (let_the_time_run_out, (SAVED,)),
]


def test_a_chain_is_cancelled_once_and_interrupted_in_five_ways_and_ends_as_if_it_never_had_been(
    cluster, submit, workshop, tmp_path, expected
):
    """A task on each of two nodes. The first job of the array is cancelled, the second one goes on from there."""
    run = tmp_path / "run"
    task = pretrain_arguments(workshop, run, *SETTINGS, "training.sets_per_batch=2", "compute.nodes=2")
    chain = submit("bionemo-scale", *task, NOTICE=str(NOTICE), SBATCH_ARRAY_INX="1-2%1")
    wait_for(lambda: last_step(run) > 5)
    first, number = f"{chain}_1", f"{chain}_2"
    cluster.command("scancel", first)
    wait_for(lambda: runs(cluster, number))

    def log() -> str:
        return log_of(run, cluster.job(number)["JobId"])

    wait_for(lambda: GOING_ON in log())
    assert went_on_from(log()) == saved_at(log_of(run, cluster.job(first)["JobId"]))

    for times, (happen, sentences) in enumerate(INTERRUPTIONS):
        done = last_step(run)
        wait_for(lambda done=done: runs(cluster, number) and last_step(run) > done + 5)
        before = len(log())
        happen(cluster=cluster, number=number, log=log, submit=submit)
        wait_for(lambda before=before: runs(cluster, number) and GOING_ON in log()[before:])
        assert cluster.job(number)["Restarts"] == str(times + 1), happen.__name__
        told = log()[before:]
        assert all(sentence in told for sentence in sentences), f"{happen.__name__}: {told}"
        if SAVED in told:
            assert went_on_from(told) == saved_at(told), f"{happen.__name__}: {told}"
        for step, losses in logged(run).items():
            assert set(losses) == set(expected[0][step]), f"step {step} before the end of {happen.__name__}"

    assert ended(cluster, number) == "COMPLETED", log()[-3000:]
    assert_as_if_never_interrupted(run, expected)
    assert (cluster.job(first)["JobState"], cluster.job(first)["Restarts"]) == ("CANCELLED", "0")


def test_two_jobs_stage_one_store_at_once_and_a_recipe_of_nemo_trains_on_it(
    cluster, submit, workshop, tmp_path, expected
):
    """Both wait for the lock of the store, which the test holds until then. One trains with two tasks on its node."""
    store, local, run = workshop / "store", tmp_path / "local", tmp_path / "run"
    local.mkdir()
    staged = local / hashlib.sha256((store / "manifest.json").read_bytes()).hexdigest()[:16]
    lock, stat = staged.with_suffix(".lock"), ("stat", "--format=%n %i %z", "{store}/data.npy")
    given = pretrain_arguments(workshop, run, *SETTINGS, "training.sets_per_batch=2", "compute.devices=2")
    settings = [word for word in given if "=" in word]
    where = ["store={store}", f"split={workshop / 'split.toml'}", f"out={run}"]
    recipe = ("nemo", "scale", "pretrain", "--factory", "scale_tiny", *where, *settings, "--yes")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        trains = submit(*recipe, LOCAL_DIR=str(local), NODES="1", GPUS="2")
        looks = submit(*stat, LOCAL_DIR=str(local), NODES="1")
        wait_for(lambda: len(processes_of("flock", lock)) == 2)
    for number in (looks, trains):
        assert ended(cluster, number) == "COMPLETED", log_of(run, number)[-3000:]
    # The number of the file and the time of its last change: it was copied once.
    *_, seen = log_of(run, looks).splitlines()
    assert seen == subprocess.check_output([*stat[:2], staged / "data.npy"], text=True).strip()
    assert (staged / "data.npy").read_bytes() == (store / "data.npy").read_bytes()
    assert sorted(path.suffix for path in local.iterdir()) == ["", ".lock", ".log"]
    assert_as_if_never_interrupted(run, expected)


def test_a_job_that_fails_says_why_and_stays_out_of_the_queue(cluster, submit, tmp_path):
    number = submit("bash", "-c", "[[ $SLURM_PROCID == 2 ]] && exit 2; sleep 60", GPUS="2")
    assert ended(cluster, number) == "FAILED", log_of(tmp_path / "run", number)
    assert (cluster.job(number)["ExitCode"], cluster.job(number)["Restarts"]) == ("2:0", "0")
    assert "task 2: Exited with exit code" in log_of(tmp_path / "run", number)
