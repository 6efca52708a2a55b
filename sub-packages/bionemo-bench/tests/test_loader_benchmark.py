"""Side-by-side benchmarks: what a run writes, arms that fail, and the parts that numbers depend on."""

import importlib
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from bionemo.bench.harness import page_cache
from bionemo.bench.harness.environments import ArmError, Environment
from bionemo.bench.harness.formats import OWN, Format, Formats
from bionemo.bench.harness.run import alternate
from bionemo.bench.harness.screen import ScreenSize, reference_counts
from bionemo.bench.harness.worker import DRIVERS, Bench, Worker
from bionemo.bench.loader.arms import FORMATS, Arm, own_arms, peer_arms
from bionemo.bench.loader.benchmark import LoaderBenchmark, run_loader_benchmark
from bionemo.bench.loader.report import ratios, write_report
from bionemo.cellsets import CellStore
from bionemo.screens import InputError

SIZE = ScreenSize(cells=1_200, genes=50, values_per_cell=5, contexts=2, perturbations=4)
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "loader_benchmark.md"


def arm_named(name: str) -> Arm:
    return next(arm for arm in (*own_arms(), *peer_arms(2)) if arm.name == name)


def data_folder(tmp_path_factory) -> Path:
    """Where the run kept its formats."""
    return next(tmp_path_factory.getbasetemp().glob("cache*/data/*/sorted")).parent


@pytest.fixture(scope="module")
def broken_drivers(tmp_path_factory) -> Path:
    """A driver that hands out wrong numbers, and one whose process ends."""
    folder = tmp_path_factory.mktemp("drivers")
    head = f"import sys; sys.path.insert(0, {str(DRIVERS)!r})\nimport read_h5ad, driver_protocol\n"
    wrong = "class Wrong(read_h5ad.SetReader):\n    def batches(self):\n        for batch in super().batches():\n"
    wrong += "            yield batch._replace(target=batch.target * 1.01)\n"
    wrong += "read_h5ad.SetReader = Wrong\ndriver_protocol.serve(read_h5ad.open_data)\n"
    (folder / "wrong.py").write_text(head + wrong)
    (folder / "ending.py").write_text("import sys\nprint('no such device', file=sys.stderr)\nsys.exit(3)\n")
    return folder


@pytest.fixture(scope="module")
def result(tmp_path_factory, broken_drivers):
    """A small run of sorted h5py slices, and of three arms that cannot be measured."""
    h5py_arm = arm_named("h5py")
    elsewhere = Environment(name="future", requirements=("numpy",), least_python=(3, 99))
    arms = [
        h5py_arm,
        replace(h5py_arm, name="wrong", label="wrong numbers", driver=str(broken_drivers / "wrong")),
        replace(h5py_arm, name="ending", label="ends", driver=str(broken_drivers / "ending")),
        replace(h5py_arm, name="future", label="needs another Python", environment=elsewhere),
    ]
    benchmark = LoaderBenchmark(size=SIZE, set_size=16, sets_per_batch=2, seconds=0.1)
    return run_loader_benchmark(benchmark, tmp_path_factory.mktemp("cache"), arms=arms, progress=False)


def test_a_run_measures_what_can_be_measured_and_says_what_cannot(result):
    arms = {arm["name"]: arm for arm in result["arms"]}
    assert arms["h5py"]["not_run"] is None
    assert arms["h5py"]["check"]["cells"] > 20
    assert arms["h5py"]["check"]["largest_difference"] < 1e-5
    assert arms["h5py"]["check"]["differing_counts"] == 0
    assert [len(arms["h5py"][phase]["runs"]) for phase in ("warm", "cold")] == [3, 3]
    for run in arms["h5py"]["warm"]["runs"]:
        assert run["resident_before"] == 1
        assert 0 < run["distinct_cells"] == run["cells"]
        assert run["control_rows"] == 0
        assert run["cpu_seconds"] > 0
        assert run["wall_seconds"] >= 0.1
    assert all(run["distinct_cells"] < SIZE.cells and run["epochs"] == 1 for run in arms["h5py"]["cold"]["runs"])
    assert "differs from the screen" in arms["wrong"]["not_run"]
    assert "no such device" in arms["ending"]["not_run"]
    assert arms["future"]["not_run"] == "needs Python 3.99"
    assert not any("warm" in arms[name] for name in ("wrong", "ending", "future"))
    assert result["formats"]["sorted"]["bytes"] > SIZE.cells * SIZE.values_per_cell * 7


@pytest.mark.parametrize("options", [{}, {"loader": {"staged": True}}])
def test_the_loop_of_ours_hands_out_each_perturbed_cell_once_an_epoch(
    result, tmp_path, tmp_path_factory, monkeypatch, options
):
    monkeypatch.syspath_prepend(DRIVERS)
    read_store, protocol = (importlib.import_module(name) for name in ("read_store", "driver_protocol"))
    read_store.convert(data_folder(tmp_path_factory) / "screen", tmp_path, {"target_sum": 10_000})
    reader = read_store.StoreReader(tmp_path, options | {"set_size": 16, "sets_per_batch": 2})
    whole = [batch.rows[batch.rows >= 0] for batch in reader.batches()]
    store = CellStore.open(tmp_path / "data")
    perturbed = store.runs[~store.is_control]
    expected = [np.arange(run["start"], run["start"] + run["length"]) for run in perturbed]
    assert np.array_equal(np.sort(np.concatenate(whole)), np.sort(np.concatenate(expected)))
    run = protocol.timed_loop(reader, 10, epochs=1)
    assert run["epochs"] == 1
    assert run["distinct_cells"] == run["cells"] == sum(map(len, expected)) - 32  # the first batch is not counted
    assert run["control_rows"] == run["cells"]
    protocol._sample(reader, tmp_path / "sample.npz", 1)
    with np.load(tmp_path / "sample.npz") as sample:
        counts = reference_counts(data_folder(tmp_path_factory) / "screen", sample["cells"])
        scale = 10_000 / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        np.testing.assert_allclose(sample["expression"], np.log1p(counts * scale), atol=1e-5)


@pytest.mark.slow
def test_every_loop_of_ours_gives_the_same_cells(tmp_path):
    benchmark = LoaderBenchmark(size=SIZE, set_size=16, sets_per_batch=2, seconds=0.1)
    found = run_loader_benchmark(benchmark, tmp_path, progress=False)
    assert [arm["name"] for arm in found["arms"] if arm["not_run"]] == []
    assert ratios(found)["dense"] == {"wall": 1, "cpu": 1}


def test_the_report_is_made_of_the_json_alone(result, tmp_path):
    files = write_report(result, tmp_path)
    again = write_report(json.loads(files["json"].read_text()), tmp_path / "again")
    assert files["md"].read_text() == again["md"].read_text()
    table = files["md"].read_text()
    for arm in result["arms"]:
        assert arm["label"] in table
    assert "needs another Python was not run: needs Python 3.99" in table
    assert "sorted h5py slices" in files["svg"].read_text()


def test_the_page_describes_every_entry_of_the_json(result):
    described = set(re.findall(r"`([a-z0-9_]+)`", PAGE.read_text()))

    def names(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                yield name
                yield from names(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from names(inner)

    told = {"formats", "options", "versions"}  # their entries are names of the arms' own
    without = {name: value for name, value in result.items() if name not in told}
    without["arms"] = [{name: value for name, value in arm.items() if name not in told} for arm in result["arms"]]
    without["formats"] = [made | {"versions": {}} for made in result["formats"].values()]
    assert {name for name in names(without) if not name.isdigit()} <= described


def test_a_format_is_used_again_unless_other_code_made_it(tmp_path):
    convert = "def convert(source, target, options):\n    (target / 'data').write_text('{}')\n"
    driver = tmp_path / "copy.py"
    known = {"tiny": Format(driver=str(tmp_path / "copy"), source="screen")}
    bench, folder, made = Bench(tmp_path / "cache"), tmp_path / "formats", []
    for content in ("one", "one", "two"):
        head = f"import sys; sys.path.insert(0, {str(DRIVERS)!r})\nimport driver_protocol\n"
        driver.write_text(head + convert.format(content) + "driver_protocol.serve(None, convert)\n")
        formats = Formats(bench, folder, SIZE, again=False, progress=False, known=known)
        formats.make("tiny")
        (data,) = formats.data_of("tiny")
        made.append((data.read_text(), data.stat().st_mtime_ns))
    assert [content for content, _ in made] == ["one", "one", "two"]
    assert made[0] == made[1]


@pytest.mark.parametrize(("exit_code", "reason"), [(0, None), (1, "pip could not install peer==1: ERROR: none such")])
def test_an_environment_is_made_once_or_the_reason_is_told(tmp_path, monkeypatch, exit_code, reason):
    # Stands for a Python whose virtual environments hold a pip that ends with that code.
    base = tmp_path / "python"
    pip = f"#!/bin/sh\necho pip >> {tmp_path}/calls\necho 'ERROR: none such' >&2\nexit {exit_code}\n"
    (tmp_path / "pip").write_text(pip)
    base.write_text(f'#!/bin/sh\nmkdir -p "$3/bin"\ncp {tmp_path}/pip "$3/bin/python"\nchmod +x "$3/bin/python"\n')
    for script in (base, tmp_path / "pip"):
        script.chmod(0o755)
    monkeypatch.setattr("bionemo.bench.harness.environments.find_python", lambda least: base)
    peer = Environment(name="peer", requirements=("peer==1",))
    for _ in range(2):
        if reason is None:
            assert peer.make(tmp_path / "made").is_file()
        else:
            with pytest.raises(ArmError, match=reason):
                peer.make(tmp_path / "made")
    # Kept where it was installed, tried again where it was not.
    assert len((tmp_path / "calls").read_text().split()) == (1 if reason is None else 2)


def test_arms_go_forwards_and_backwards_and_one_that_fails_is_left_out():
    order = []

    def measure(name):
        order.append(name)
        if name == "b" and len(order) > 3:
            raise ArmError("broke")
        return {"place": len(order)}

    runs, failed = alternate(["a", "b", "c"], 3, measure)
    assert order == ["a", "b", "c", "c", "b", "a", "a", "c"]
    assert failed == {"b": "broke"}
    assert [len(runs[name]) for name in ("a", "c")] == [3, 3]


def test_a_driver_that_is_too_slow_is_ended(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text("import time\ntime.sleep(60)\n")
    worker = Worker(OWN.make(tmp_path), script, tmp_path / "log", own=True)
    with pytest.raises(ArmError, match="no answer within"):
        worker.ask("versions", timeout=0.2)


def test_a_benchmark_that_is_killed_leaves_no_stopped_process(tmp_path):
    """The driver and the process that it has started are stopped, so they cannot notice."""
    (tmp_path / "driver.py").write_text(
        "import os, subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "print(os.getpid(), inner.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    (tmp_path / "benchmark.py").write_text(
        "import sys, time\nfrom pathlib import Path\n"
        "from bionemo.bench.harness.worker import Worker\n"
        "folder = Path(sys.argv[1])\n"
        "worker = Worker(Path(sys.executable), folder / 'driver.py', folder / 'log', own=True)\n"
        "print(worker._process.stdout.readline().decode(), end='', flush=True)\n"
        "worker.pause()\nprint('paused', flush=True)\ntime.sleep(100)\n"
    )
    benchmark = subprocess.Popen(
        [sys.executable, tmp_path / "benchmark.py", tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert benchmark.stdout is not None
    pids = benchmark.stdout.readline().split()
    assert benchmark.stdout.readline() == "paused\n"
    wait_until(lambda: [state(pid) for pid in pids] == ["T", "T"])
    benchmark.kill()
    benchmark.communicate()
    wait_until(lambda: {state(pid) for pid in pids} <= {"", "Z"})


def wait_until(condition, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def state(pid: str) -> str:
    """Return the letter that the kernel has for the state of a process; empty where there is none."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_files_are_dropped_from_the_page_cache_and_read_back(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    page_cache.drop([path])
    dropped = page_cache.resident_share([path])
    page_cache.warm([tmp_path])
    assert page_cache.resident_share([tmp_path]) == 1
    assert dropped in (0, 1)  # a file system in memory keeps its pages


def test_every_peer_is_pinned_and_has_a_driver():
    for arm in peer_arms(2):
        assert all("==" in requirement for requirement in arm.environment.requirements)
        assert (DRIVERS / f"{arm.driver}.py").is_file()
        assert FORMATS[arm.format]


def test_the_bar_of_a_run_that_fails_ends_before_the_error_is_told(tmp_path, capsys):
    (tmp_path / "data" / SIZE.name).mkdir(parents=True)
    (tmp_path / "data" / SIZE.name / "screen.partial").touch()
    with pytest.raises(OSError, match=r"screen\.partial"):
        run_loader_benchmark(LoaderBenchmark(size=SIZE), tmp_path)
    assert capsys.readouterr().err.endswith("\n")


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"'h5pi'.*did you mean 'h5py'"):
        LoaderBenchmark(size=SIZE, arms=("h5pi",)).chosen_arms(2)
    with pytest.raises(InputError, match="repeats is 2"):
        LoaderBenchmark(size=SIZE, repeats=2)
    with pytest.raises(InputError, match="at least 200"):
        replace(SIZE, cells=100)


def test_the_screen_has_the_size_asked_for(result, tmp_path_factory):
    screen = data_folder(tmp_path_factory) / "sorted"
    with h5py.File(screen / "data.h5ad") as file:
        lengths = np.diff(file["X/indptr"][:])
        assert file["X/data"].chunks is None
        assert file["X"].attrs["shape"].tolist() == [SIZE.cells, SIZE.genes]
    assert lengths.mean() == pytest.approx(SIZE.values_per_cell, rel=0.1)
    runs = np.load(screen / "runs.npy")
    assert len(runs) == SIZE.contexts * (SIZE.perturbations + 1)
    assert runs["length"][runs["is_control"]].sum() == pytest.approx(SIZE.cells / 10, rel=0.4)
