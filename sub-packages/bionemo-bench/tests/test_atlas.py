"""A screen through every command: what is asked of each, what is measured of it, and how the numbers grow."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bionemo.bench.atlas import benchmark
from bionemo.bench.atlas.benchmark import Atlas, growth, split_of
from bionemo.bench.atlas.process import measured
from bionemo.bench.cli import app
from bionemo.bench.harness.environments import ArmError
from bionemo.screens.errors import InputError
from bionemo.screens.simulation import draw_screen
from bionemo.screens.split import Split

SMALL = Atlas(contexts=3, genes=40, cells_per_condition=10, held_out=0.25)


def test_a_process_is_measured(tmp_path):
    code = (
        "import sys, os; held = b'x' * 200_000_000; end = sum(range(3_000_000)); "
        "file = open(sys.argv[1], 'wb'); file.write(b'y' * 1_000_000); file.flush(); os.fsync(file.fileno())"
    )
    found = measured([sys.executable, "-c", code, str(tmp_path / "file")], tmp_path / "log")
    assert found["wall_seconds"] > 0.02
    assert found["cpu_seconds"] > 0.02
    # Linux counts the memory of the process that starts a command to the command's peak.
    own = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 2e8 < found["peak_rss_bytes"] < 1e9 + own
    assert found["written_bytes"] in (None, 0) or found["written_bytes"] >= 1_000_000


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path):
    with pytest.raises(ArmError, match="ended with code 3: no more disk"):
        measured([sys.executable, "-c", "print('no more disk'); exit(3)"], tmp_path / "log")


def test_a_command_ends_with_the_benchmark_that_measures_it(tmp_path):
    command = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    code = (
        "import sys, pathlib; from bionemo.bench.atlas.process import measured; "
        f"measured([sys.executable, '-c', {command!r}], pathlib.Path('log'))"
    )
    benchmark = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
    benchmark.kill()
    benchmark.wait()
    stat = Path("/proc", log.read_text().strip(), "stat")
    wait_until(lambda: not stat.exists() or ") Z" in stat.read_text())


def wait_until(condition, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def test_every_held_out_condition_is_in_the_screen_and_trains_elsewhere(tmp_path):
    screen = draw_screen(
        cells=SMALL.cells(500), genes=40, contexts=3, perturbations=SMALL.perturbations(500), batches=1
    )
    assert screen.n_obs == SMALL.cells(500)
    (tmp_path / "split.toml").write_text(split_of(SMALL.test_conditions(500)))
    test = SMALL.test_conditions(500)
    counts = screen.obs.groupby(["context", "perturbation"], observed=True).size()
    assert all(counts[context, name] == 10 for context, names in test.items() for name in names)
    held = [name for names in test.values() for name in names]
    assert len(held) == len(set(held)) > 3
    split = Split.from_toml(tmp_path / "split.toml")
    assert split.held_out(set(counts.index), "control") == {(c, p) for c, names in test.items() for p in names}


def test_a_screen_that_is_too_small_is_refused():
    with pytest.raises(InputError, match=r"100 cells are too few .* ask for at least 210"):
        SMALL.cells(100)


def test_a_line_is_followed_and_said_to_be_followed(tmp_path, monkeypatch):
    """Commands that need two seconds, and one more a hundred cells."""

    def need(command, log):
        cells = float(command[command.index("--cells") + 1]) if "--cells" in command else 0.0
        return {"wall_seconds": 2 + cells / 100, "cpu_seconds": 1.0, "peak_rss_bytes": 2**30, "written_bytes": None}

    monkeypatch.setattr(benchmark, "measured", need)
    arguments = ["--contexts", 3, "--cells-per-condition", 10, "--held-out", 0.25, "--sizes", "300,600"]
    arguments += ["--target", 1_000_000, "--out", tmp_path]
    ran = CliRunner().invoke(app, ["atlas", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "300"})
    assert ran.exit_code == 0
    assert "1,000,000 cells were not measured" in ran.stdout
    found = json.loads((tmp_path / "atlas.json").read_text())
    simulate = found["growth"]["simulate"]
    assert simulate["wall_seconds"]["per_million_cells"] == pytest.approx(10_000)
    assert simulate["wall_seconds"]["at_target"] == pytest.approx(10_002)
    assert "written_bytes" not in simulate
    assert growth(found, 600)["simulate"]["wall_seconds"]["at_target"] == pytest.approx(8)
    assert "| 300 | simulate | 5.0 | 1.0 | 1.00 | not known |" in (tmp_path / "atlas.md").read_text()
    assert (
        "| simulate | 10,000.0 | none seen | none seen | none seen | 10,002.0 |" in (tmp_path / "atlas.md").read_text()
    )
    assert not list(tmp_path.glob("cells-*"))


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    asked = []

    def need(command, log):
        asked.append(command[3])
        if asked.count("predict") == 1 and command[3] == "predict":
            (log.parent / "predicted").mkdir()
            raise KeyboardInterrupt
        assert not (log.parent / "predicted").exists()  # what an ended stage left
        return dict.fromkeys(benchmark.MEASURES, 1.0)

    monkeypatch.setattr(benchmark, "measured", need)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(SMALL, [300], tmp_path, keep=False, report=lambda _: None)
    benchmark.run(SMALL, [300], tmp_path, keep=False, report=lambda _: None)
    assert asked == ["simulate", "prepare", "pretrain", "predict", "predict", "evaluate"]
    # What was measured is there until the result is written.
    benchmark.run(SMALL, [300], tmp_path, keep=False, report=lambda _: None)
    assert asked[-1] == "evaluate"
    assert len(asked) == 6


@pytest.mark.slow
def test_the_smallest_screen_goes_through_all_commands(tmp_path):
    arguments = ["--contexts", 3, "--cells-per-condition", 20, "--genes", 60, "--held-out", 0.25, "--sizes", "600,900"]
    arguments += ["--steps", 3, "--out", tmp_path]
    ran = CliRunner().invoke(app, ["atlas", *map(str, arguments)])
    assert ran.exit_code == 0, ran.output
    found = json.loads((tmp_path / "atlas.json").read_text())
    assert [size["cells"] for size in found["sizes"]] == [600, 900]
    for size in found["sizes"]:
        assert list(size["stages"]) == ["simulate", "prepare", "pretrain", "predict", "evaluate"]
        assert all(stage["peak_rss_bytes"] > 5e7 for stage in size["stages"].values())
