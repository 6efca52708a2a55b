"""Throughput over two ranks, CPU processes here: the paths that several GPUs take."""

import json
import subprocess

import pytest

from bionemo.bench.harness.formats import OWN
from bionemo.bench.harness.worker import Bench
from bionemo.bench.throughput.benchmark import DRIVERS

pytestmark = pytest.mark.slow
SETS, CELLS, STEPS = 2, 16, 5


def test_the_benchmarks_training_is_timed_over_two_ranks(workshop, tmp_path):
    """What `bench throughput --gpus 2` asks of the process that trains SCALE."""
    settings = {"max_steps": 10_000, "sets_per_batch": SETS, "cells_per_set": CELLS}
    with Bench(tmp_path / "bench").start(DRIVERS / "train_scale", OWN, threads=1) as worker:
        warm = worker.ask(
            "train",
            timeout=300,
            store=str(workshop / "store"),
            split=str(workshop / "split.toml"),
            out=str(tmp_path / "run"),
            model={"hidden_size": 32, "num_layers": 1, "num_attention_heads": 4, "num_query_groups": 2,
                   "ffn_hidden_size": 96, "gene_modules": 4, "gene_module_size": 16},
            compute={"devices": 2},
            training_settings=settings | {"validate_every": 10_000, "checkpoint_every": 10_000},
            warm_up=2,
        )  # fmt: skip
        assert warm["parameters"] > 0
        taken = worker.ask("window", timeout=300, steps=STEPS)
        ended = worker.ask("end", timeout=300)
    assert taken["steps"] == len(taken["step_seconds"]) == STEPS
    # More than one rank can have seen, and no more than the two have.
    assert STEPS * SETS * CELLS * 0.5 < taken["distinct_cells"] <= 2 * STEPS * SETS * CELLS
    assert ended["checkpoint"].startswith(str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["global_batch"] == 2 * SETS


def test_the_recipe_measures_two_ranks_under_torchrun(workshop, tmp_path, environment):
    done = subprocess.run(
        [
            *("nemo", "scale", "throughput", "--factory", "scale_tiny", f"out={tmp_path / 'timed'}", "steps=4"),
            *("warm_up=2", f"store={workshop / 'store'}", f"split={workshop / 'split.toml'}"),
            *(f"training.sets_per_batch={SETS}", f"training.cells_per_set={CELLS}", "executor=torchrun"),
            *("executor.ntasks_per_node=2", "--yes"),
        ],
        env={**environment, "NEMORUN_HOME": str(tmp_path / "nemo_run")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "timed" / "throughput.json").read_text())
    assert found["compute"]["devices"] == 2
    assert 4 * SETS * CELLS * 0.5 < found["distinct_perturbed_cells"] <= 2 * 4 * SETS * CELLS
    assert found["cells_per_second"] == pytest.approx(found["distinct_perturbed_cells"] / found["seconds"])
