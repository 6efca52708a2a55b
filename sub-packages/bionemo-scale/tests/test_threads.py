"""Threads of the libraries: as many as the settings say, unless the user says it by OMP_NUM_THREADS."""

import json
import os
import subprocess
import sys

import pytest

COUNT = """
import json, sys
{before}
from bionemo.scale.threads import use_threads
use_threads(1)
import numba, scipy.linalg, threadpoolctl, torch
pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
print(json.dumps([torch.get_num_threads(), numba.get_num_threads(), *pools]))
"""


def threads(before: str = "", **environment: str) -> set[int]:
    """Numbers of threads that a process of its own has after `use_threads(1)`."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", COUNT.format(before=before)]
    ran = subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout))


@pytest.mark.parametrize("before", ["", "import numba, numpy, scipy.linalg, torch"], ids=["before", "after"])
def test_every_library_uses_the_threads_of_the_settings(before):
    assert threads(before) == {1}


def test_who_sets_omp_num_threads_keeps_it():
    assert 2 in threads(OMP_NUM_THREADS="2")


def test_training_is_set_up_with_the_threads_of_its_settings(monkeypatch, compute):
    from dataclasses import replace

    from bionemo.scale.config.training import TrainingConfig
    from bionemo.scale.training import setup

    asked = []
    monkeypatch.setattr(setup, "use_threads", asked.append)
    monkeypatch.setattr(setup, "redirect_cuda_to_cpu", lambda: None)
    monkeypatch.setattr(setup, "collect_write_results_here", lambda: None)
    monkeypatch.setattr(setup, "keep_freed_memory", lambda: None)
    setup.set_up(replace(compute, threads=3), TrainingConfig(max_steps=100, sets_per_batch=1, cells_per_set=1))
    assert asked == [3]
