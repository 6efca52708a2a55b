"""A process ends when it is told to, whatever it is doing, and takes its own with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLEEPS = """
import time
from bionemo.scale.ending import told_to_end

with told_to_end(at_once={at_once}) as told:
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
        print(told.by, flush=True)
"""
FORKS = """
import multiprocessing, os, time
from bionemo.scale.ending import call_and_die_with_parent

def forking():
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
    print("ready", flush=True)
    time.sleep(60)

multiprocessing.get_context("fork").Process(target=call_and_die_with_parent, args=(os.getpid(), forking)).start()
time.sleep(60)
"""

LOSES_A_FORK = """
import multiprocessing, os, time
from bionemo.scale.ending import forks_die_with_this

print("ready", flush=True)
with forks_die_with_this():
    fork = multiprocessing.get_context("fork")
    counted = fork.JoinableQueue()
    counted.put(1)
    fork.Process(target=os.abort).start()
    counted.join()
"""


@pytest.fixture
def running():
    """Start a script in a session of its own and wait until it is ready."""
    started = []

    def run(script: str, **environment) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_a_sentence_what_would_have_swallowed_it(running, number, code):
    process = running(SLEEPS.format(at_once=True))
    process.send_signal(number)
    assert process.wait(20) == code
    assert process.stderr.read().strip() == f"stopped by {number.name}: the same command can be started again."


def test_the_first_rank_speaks_for_all(running):
    process = running(SLEEPS.format(at_once=True), LOCAL_RANK="1")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr.read() == ""


def test_what_has_to_save_is_told_and_a_second_ctrl_c_ends_it(running):
    process = running(SLEEPS.format(at_once=False))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # from another process of the terminal
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "goes on from the last checkpoint" in process.stderr.read()


def test_forked_processes_end_with_the_one_that_is_killed(running):
    process = running(FORKS)
    assert len(members(process.pid)) == 3
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while members(process.pid):
        assert time.monotonic() < until, members(process.pid)
        time.sleep(0.05)


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


def test_a_fork_that_is_killed_is_not_waited_for(running):
    process = running(LOSES_A_FORK)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert told == "\nstopped: a process that writes for this one was killed: start the same command again.\n"
