"""The throughput benchmark: its arithmetic on canned records, its files, its regression mode, and what it refuses."""

import importlib
import json
import re
from copy import deepcopy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bionemo.bench.cli import app
from bionemo.bench.harness.environments import ArmError, Environment
from bionemo.bench.harness.screen import ScreenSize
from bionemo.bench.harness.worker import DRIVERS as PROTOCOL
from bionemo.bench.throughput import benchmark as throughput
from bionemo.bench.throughput.arms import INFERENCE, TRAINING, inference_arms, state_environment, training_arms
from bionemo.bench.throughput.benchmark import DRIVERS, SCHEMA, run_throughput_benchmark
from bionemo.bench.throughput.records import headline, inference_rates, percentiles, ratios, summaries, training_rates
from bionemo.bench.throughput.regression import check_comparable, read_baseline, regressions, sentences
from bionemo.bench.throughput.report import markdown, write_report
from bionemo.bench.throughput.settings import ThroughputBenchmark, settings_of
from bionemo.bench.throughput.sizes import SIZES
from bionemo.scale.config.model import ModelConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.screens.errors import InputError

ROOT = Path(__file__).parents[3]
STORED = ROOT / "benchmarks/results/throughput-cpu.json"
RESULT_PAGE, LAYOUT_PAGE = ROOT / "docs/results/throughput.md", ROOT / "docs/reference/throughput_benchmark.md"
SCREEN = ScreenSize(cells=20_000, genes=50, values_per_cell=5, contexts=2, perturbations=4)


def window(seconds: float, cells: int = 1_000, waits: float = 0.0) -> dict:
    """A window of training: 4 steps, the last twice as long as the others."""
    taken = {
        "steps": 4,
        "wall_seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "wait_seconds": waits,
        "step_seconds": [seconds / 5] * 3 + [2 * seconds / 5],
        "distinct_cells": cells,
        "epochs": 1,
        "batches_ready": [0, 0],
        "device_bytes": 0,
        "peak_rss_bytes": 3_000_000,
        "own_bytes": 2_000_000,
        "joules": None,
        "resident_before": 1.0,
    }
    return taken | training_rates(taken)


def prediction(wall: float, loop: float) -> dict:
    taken = {
        **{"cells": 600, "forward_calls": 6, "wall_seconds": wall, "cpu_seconds": wall, "forward_seconds": loop / 2},
        **{"loop_seconds": loop, "wait_seconds": 0.0, "reading_seconds": 0.1, "writing_seconds": 0.2, "joules": 30.0},
        **{"device_bytes": 0, "peak_rss_bytes": 3_000_000, "own_bytes": 2_000_000},
    }
    return taken | inference_rates(taken)


def measured(arm, taken: list[dict]) -> dict:
    described = {"name": arm.name, "label": arm.label, "task": arm.task, "system": arm.system, "as_is": arm.as_is}
    described |= {"precision": arm.precision, "options": arm.options, "not_run": None, "parameters": 5}
    return described | {"runs": taken, **summaries(taken)}


@pytest.fixture
def result() -> dict:
    """A whole result: STATE's best takes twice the time of SCALE's best, as shipped five times; one arm was not run."""
    seconds = {"state": 5.0, "state-held": 3.0, "state-bf16": 2.0, "scale": 1.5, "scale-bf16": 1.0}
    arms = []
    for arm in training_arms(1):
        if arm.name in seconds:
            arms.append(measured(arm, [window(seconds[arm.name] * factor) for factor in (1.0, 1.1, 0.9)]))
    for arm in inference_arms(16):
        loop = {"tx-predict": 2.0, "tx-infer": 1.0, "predict-1": 0.5, "predict": 0.4}[arm.name]
        arms.append(measured(arm, [prediction(4 * loop, loop)] * 3))
    missing = next(arm for arm in training_arms(1) if arm.name == "blocks")
    about = {"name": missing.name, "label": missing.label, "task": missing.task, "system": missing.system}
    arms.append(about | {"as_is": False, "precision": "fp32", "options": {}, "not_run": "pip said no"})
    benchmark = ThroughputBenchmark(size="tiny", screen=SCREEN)
    machine, settings = settings_of(benchmark)
    made = {"source": "screen", "bytes": 10, "seconds": 2.0, "cpu_seconds": 2.0, "peak_rss_bytes": 1, "versions": {}}
    return {
        "schema": SCHEMA,
        "started": "2026-01-01T00:00:00+00:00",
        "took_seconds": 60.0,
        "command": ["bionemo-bench", "throughput"],
        "machine": machine,
        "settings": settings,
        "formats": {"store": made},
        "arms": arms,
        "ratios": ratios(arms),
        "headline": headline(arms),
    }


def test_rates_are_distinct_cells_over_wall_and_over_cpu_time():
    taken = window(2.0, cells=500, waits=0.5)
    assert taken["cells_per_second"] == 250
    assert taken["cells_per_cpu_second"] == 125
    assert taken["iterations_per_second"] == 2
    assert taken["data_wait"] == 0.25
    assert taken["step_percentiles"]["p50"] == pytest.approx(0.4)
    assert taken["step_percentiles"]["p99"] == pytest.approx(0.8, rel=0.05)
    assert percentiles([3.0]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0}
    assert prediction(4.0, 2.0)["loop_cells_per_second"] == 300
    assert prediction(4.0, 2.0)["cells_per_joule"] == 20


def test_a_ratio_is_taken_repetition_by_repetition_and_at_the_arms_own_precision(result):
    found = result["ratios"]
    assert found["state-held"]["cells_per_second"] == pytest.approx({"median": 2.0, "least": 2.0, "greatest": 2.0})
    assert found["state-bf16"]["cells_per_second"]["median"] == pytest.approx(2.0)
    assert found["state"]["iterations_per_second"]["median"] == pytest.approx(10 / 3)
    assert found["tx-infer"]["loop_cells_per_second"]["median"] == pytest.approx(2.0)
    assert "scale" not in found
    assert "blocks" not in found
    varied = deepcopy(result["arms"])
    for run, factor in zip(varied[0]["runs"], (1.0, 2.0, 4.0), strict=True):
        run["cells_per_second"] *= factor
    spread = ratios(varied)["state"]["cells_per_second"]
    assert spread["greatest"] == pytest.approx(4 * spread["least"])


def test_what_was_asked_is_answered_with_the_best_of_ours_and_of_theirs(result):
    shipped, tuned, wait, predict, infer = result["headline"]
    assert (shipped["found"]["median"], shipped["met"]) == (pytest.approx(5.0), True)
    assert tuned["what"].endswith("at its fastest (state-bf16)")
    assert (tuned["found"]["median"], tuned["met"]) == (pytest.approx(2.0), True)
    assert wait["met"]
    assert (predict["found"]["median"], predict["met"]) == (pytest.approx(4.0), True)
    assert (infer["found"]["median"], infer["met"]) == (pytest.approx(2.0), True)
    slow = deepcopy(result["arms"])
    for arm in slow:
        if arm["name"].startswith("scale"):
            arm["runs"] = [window(1.9, waits=0.5)] * 3
            arm |= summaries(arm["runs"])
    shipped, tuned, wait, *_ = headline(slow)
    assert not shipped["met"]
    assert not tuned["met"]
    assert not wait["met"]


def test_the_report_is_made_of_the_json_alone(result, tmp_path):
    files = write_report(result, tmp_path)
    again = write_report(json.loads(files["json"].read_text()), tmp_path / "again")
    assert files["md"].read_text() == again["md"].read_text()
    text = files["md"].read_text()
    assert all(arm["label"] in text for arm in result["arms"])
    assert "our loader and blocks was not run: pip said no" in text
    assert "| met |" in text
    assert "SCALE, bf16" in files["svg"].read_text()


def test_the_pages_show_the_stored_result_and_describe_every_entry():
    stored, page = read_baseline(STORED, SCHEMA), RESULT_PAGE.read_text()
    for part in markdown(stored).split("\n\n"):
        assert part.strip() in page
    described = set(re.findall(r"`([a-z0-9_]+)`", LAYOUT_PAGE.read_text()))

    def names(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                yield name
                yield from names(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from names(inner)

    # Their entries are named after arms, packages or formats.
    plain = stored | {"ratios": {}, "formats": dict.fromkeys(())}
    plain["arms"] = [{**arm, "options": {}, "versions": {}} for arm in stored["arms"]]
    plain["formats"] = [made | {"versions": {}} for made in stored["formats"].values()]
    assert set(names(plain)) <= described


def test_an_arm_of_ours_that_became_slower_is_told(result, tmp_path):
    slower = deepcopy(result)
    for arm in slower["arms"]:
        if arm["name"] in ("scale", "state"):
            arm["cells_per_second"]["median"] *= 0.9
        if arm["name"] == "scale-bf16":
            arm["cells_per_second"]["median"] *= 0.96
    found = {one["name"]: one for one in regressions(slower, result)}
    assert set(found) == {"scale", "scale-bf16", "predict-1", "predict"}
    assert [name for name, one in found.items() if one["slower"]] == ["scale"]
    assert "-10.0%" in sentences(list(found.values()))[0]
    broken = deepcopy(result)
    next(arm for arm in broken["arms"] if arm["name"] == "scale").pop("runs")
    assert [one["name"] for one in regressions(broken, result) if one["slower"]] == ["scale"]


def test_the_command_ends_with_1_where_it_is_slower_than_its_baseline(result, tmp_path, monkeypatch):
    slower = deepcopy(result)
    for arm in slower["arms"]:
        if "runs" in arm:
            arm["cells_per_second"] = {name: 0.9 * rate for name, rate in arm["cells_per_second"].items()}
    monkeypatch.setattr(throughput, "run_throughput_benchmark", lambda *_: slower)
    (tmp_path / "old.json").write_text(json.dumps(result))
    sizes = ["--cells", "20000", "--genes", "50", "--nnz", "5", "--contexts", "2", "--perturbations", "4"]
    command = ["throughput", "--out", str(tmp_path / "new"), *sizes, "--baseline", str(tmp_path / "old.json")]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 1
    assert "scale: " in told.output
    assert "(slower)" in told.output
    monkeypatch.setattr(throughput, "run_throughput_benchmark", lambda *_: result)
    assert CliRunner().invoke(app, command).exit_code == 0
    read = ["throughput", "--out", str(tmp_path / "read"), "--read", str(tmp_path / "new/throughput.json")]
    assert CliRunner().invoke(app, read).exit_code == 0
    assert (tmp_path / "read/throughput.md").read_text() == (tmp_path / "new/throughput.md").read_text()


def test_a_baseline_of_another_machine_or_other_work_is_refused(result, tmp_path):
    for part, name, value in (("machine", "cpu", "Abacus"), ("settings", "threads", 7)):
        other = deepcopy(result)
        other[part][name] = value
        with pytest.raises(InputError, match=f"{name} was {value}"):
            check_comparable(other, result["machine"], result["settings"], tmp_path / "old.json")
    check_comparable(result, result["machine"], result["settings"], tmp_path / "old.json")
    for text, reason in (
        ("{", "is no JSON"),
        ("[]", "is not of the layout"),
        ('{"schema": "x"}', "is not of the layout"),
    ):
        (tmp_path / "old.json").write_text(text)
        with pytest.raises(InputError, match=reason):
            read_baseline(tmp_path / "old.json", SCHEMA)
    with pytest.raises(InputError, match="cannot be read"):
        read_baseline(tmp_path / "none.json", SCHEMA)


def test_mistakes_are_named():
    def benchmark(**changes) -> ThroughputBenchmark:
        return ThroughputBenchmark(**{"size": "tiny", "screen": SCREEN} | changes)

    with pytest.raises(InputError, match="--size huge is none of tiny"):
        benchmark(size="huge")
    with pytest.raises(InputError, match=r"--arm scael: did you mean 'scale'"):
        benchmark(arms=("scael",)).chosen_arms(2)
    with pytest.raises(InputError, match="--arm predict"):
        benchmark(arms=("predict",), tasks=(TRAINING,)).chosen_arms(2)
    with pytest.raises(InputError, match="--gpus 2 needs --device cuda"):
        benchmark(gpus=2)
    with pytest.raises(InputError, match="fewer than the 512 of a set"):
        benchmark(size="state", screen=ScreenSize(**vars(SCREEN) | {"cells": 2_000}))
    with pytest.raises(InputError, match="leaves about 100 control cells for a context"):
        benchmark(screen=ScreenSize(**vars(SCREEN) | {"cells": 2_000}))
    with pytest.raises(InputError, match="--contexts 1"):
        benchmark(screen=ScreenSize(**vars(SCREEN) | {"contexts": 1}))
    with pytest.raises(InputError, match="--repeats 2"):
        benchmark(repeats=2)


def test_every_arm_is_there_and_has_a_driver():
    names = [arm.name for arm in training_arms(7)]
    assert names[:4] == ["state", "state-sorted", "state-held", "state-bf16"]
    assert names[4:] == ["loader", "blocks", "precision", "scale", "scale-bf16"]
    by_name = {arm.name: arm for arm in training_arms(7)}
    assert by_name["state"].options["workers"] == 12
    assert not by_name["state"].options["consecutive"]
    assert by_name["state-held"].options["workers"] == 7
    assert {arm.name for arm in training_arms(1) if arm.as_is} == {"state", "state-sorted", "state-held", "state-bf16"}
    chosen = ThroughputBenchmark(size="tiny", screen=SCREEN, tasks=(INFERENCE,)).chosen_arms(2)
    assert [arm.name for arm in chosen] == ["tx-predict", "tx-infer", "predict-1", "predict"]
    for arm in (*training_arms(1), *inference_arms(16)):
        verb = "train" if arm.task == TRAINING else "predict"
        assert (DRIVERS / f"{verb}_{arm.system}.py").is_file()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_both_models_are_told_the_same_sizes(size):
    model = ModelConfig(**size.scale_model())
    training = TrainingConfig(**size.scale_training())
    told = dict(item.split("=", 1) for item in size.state_config(data="d", workers=3, consecutive=True))
    backbone = "model.kwargs.transformer_backbone_kwargs."
    assert int(told["model.kwargs.hidden_dim"]) == model.hidden_size
    assert int(told[f"{backbone}num_hidden_layers"]) == model.num_layers
    assert int(told[f"{backbone}intermediate_size"]) == model.ffn_hidden_size
    assert int(told[f"{backbone}num_attention_heads"]) == model.num_attention_heads == model.num_query_groups
    assert int(told["model.kwargs.cell_set_len"]) == training.cells_per_set
    assert int(told["training.batch_size"]) == training.sets_per_batch
    assert model.gene_modules * model.gene_module_size == pytest.approx(model.hidden_size, rel=0.1)


def test_cells_are_counted_once_an_epoch_and_waiting_is_timed(monkeypatch):
    for folder in (PROTOCOL, DRIVERS):
        monkeypatch.syspath_prepend(folder)
    stopwatch = importlib.import_module("stopwatch")
    assert stopwatch.distinct_cells([(1, ["a", "b", "a"]), (1, ["b"]), (2, ["a"])]) == 3
    assert stopwatch.distinct_cells([(1, 5), (1, 7)]) == 12
    loader = stopwatch.TimedLoader([["a"], ["b"]], lambda batch: batch)
    assert list(loader) == [["a"], ["b"]]
    assert [list(loader), loader.seen] == [[["a"], ["b"]], [(1, ["a"]), (1, ["b"]), (2, ["a"]), (2, ["b"])]]
    assert loader.wait_seconds > 0
    assert loader.ready() == loader.wanted_ready() == 0


def test_an_environment_of_state_that_is_not_finished_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("STATE_VENV", str(tmp_path))
    (tmp_path / "something").touch()
    with pytest.raises(ArmError, match="holds no finished environment"):
        state_environment().make(tmp_path)
    (tmp_path / ".installed").touch()
    with pytest.raises(ArmError, match="has no bin/python"):
        state_environment().make(tmp_path)


SMALL = ThroughputBenchmark(
    size="tiny",
    screen=ScreenSize(cells=5_000, genes=64, values_per_cell=12, contexts=3, perturbations=3),
    steps=1,
    arms=("state-sorted", "blocks", "scale", "tx-infer", "predict-1"),
)


@pytest.mark.slow
def test_without_state_the_other_arms_are_measured(tmp_path):
    nowhere = Environment(name="state", requirements=("arc-state",), least_python=(3, 99))
    found = run_throughput_benchmark(SMALL, tmp_path, state=nowhere, progress=False)
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert arms["state-sorted"]["not_run"] == arms["blocks"]["not_run"] == "needs Python 3.99"
    assert "there is no model to predict with" in arms["tx-infer"]["not_run"]
    assert len(arms["scale"]["runs"]) == len(arms["predict-1"]["runs"]) == 3
    for run in arms["scale"]["runs"]:
        assert 0 < run["distinct_cells"] <= 16 * 128
        assert run["steps"] == len(run["step_seconds"]) == 1
    assert arms["predict-1"]["runs"][0]["cells"] > 100
    assert "was not run: needs Python 3.99" in markdown(found)


@pytest.mark.slow
def test_a_whole_run_beside_state(tmp_path):
    made = state_environment().home
    if made is None or not (made / ".installed").is_file():
        pytest.skip("STATE's environment is not there: recipes/throughput_vs_state makes it")
    found = run_throughput_benchmark(SMALL, tmp_path, progress=False)
    assert [arm["not_run"] for arm in found["arms"]] == [None] * 5
    arms = {arm["name"]: arm for arm in found["arms"]}
    for name in ("state-sorted", "blocks", "scale"):
        for run in arms[name]["runs"]:
            assert 0 < run["distinct_cells"] <= 16 * 128
    assert arms["state-sorted"]["matmul_precision"] == arms["scale"]["matmul_precision"] == "medium"
    assert found["ratios"]["state-sorted"]["cells_per_second"]["median"] > 0
    assert [line["what"].split(",")[0] for line in found["headline"]] == ["training", "training", "inference"]
    write_report(found, tmp_path / "report")
