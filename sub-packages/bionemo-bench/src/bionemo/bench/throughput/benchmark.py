"""Run the throughput benchmark: one screen in both projects' formats, each arm in its own process, measured in turn."""

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bionemo.bench.harness import page_cache
from bionemo.bench.harness.environments import ArmError, Environment
from bionemo.bench.harness.formats import OWN
from bionemo.bench.harness.gpu import joules
from bionemo.bench.harness.report import described
from bionemo.bench.harness.run import Run
from bionemo.bench.harness.worker import Bench, Worker
from bionemo.bench.throughput.arms import INFERENCE, SCALE, TRAINING, Arm, state_environment, training_arms
from bionemo.bench.throughput.data import BenchmarkData
from bionemo.bench.throughput.records import headline, inference_rates, ratios, summaries, training_rates
from bionemo.bench.throughput.settings import ThroughputBenchmark, settings_of

SCHEMA = "bionemo-scale throughput benchmark 1"
DRIVERS = Path(__file__).parent / "drivers"
_WARM_UP = 3
_TIMEOUT = 3600.0


def run_throughput_benchmark(
    benchmark: ThroughputBenchmark, cache: Path, *, state: Environment | None = None, progress: bool = True
) -> dict[str, Any]:
    """Measure what a `ThroughputBenchmark` says.

    Parameters
    ----------
    benchmark : ThroughputBenchmark
        What to measure.
    cache : Path
        Directory of data, runs and logs; data that are there from an earlier run are used.
    state : Environment, optional
        Where STATE runs; by default `state_environment`.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    dict
        The result, as it is written to JSON; docs/reference/throughput_benchmark.md describes it.

    Raises
    ------
    InputError
        If something in `benchmark` is wrong, or there is no such device.
    """
    began = time.monotonic()
    facts, settings = settings_of(benchmark)
    arms = benchmark.chosen_arms(facts["cores"])
    run = _ThroughputRun(benchmark, arms, cache, state or state_environment(), progress)
    try:
        run.make_data()
        run.measure_training()
        run.measure_inference()
    finally:
        run.close()
    found = [run.arm_result(arm) for arm in arms]
    return described(SCHEMA, began, facts, settings) | {
        "formats": run.data.made,
        "arms": found,
        "ratios": ratios(found),
        "headline": headline(found),
    }


class _ThroughputRun(Run):
    """A `_ThroughputRun` starts the arms' processes, warms them up, measures them in turn, and ends them."""

    def __init__(
        self, benchmark: ThroughputBenchmark, arms: list[Arm], cache: Path, state: Environment, progress: bool
    ):
        super().__init__(arms, "bench throughput", len(arms) * (1 + benchmark.repeats) + 1, progress)
        cache = cache.absolute()
        self._benchmark, self._state, self._bench = benchmark, state, Bench(cache)
        self._runs = cache / "throughput-runs"
        self.data = BenchmarkData(
            self._bench, cache, benchmark.screen, again=benchmark.convert_again, progress=progress
        )
        self._taken: dict[str, list[dict[str, Any]]] = {}
        self._workers: dict[str, Worker] = {}

    def close(self) -> None:
        """End every process that is still there, and the progress bar."""
        self._end_workers()
        super().close()

    def make_data(self) -> None:
        """Write the screen and its formats, and fill the page cache with them."""
        self.say("data")
        self.data.make()
        page_cache.warm(self.data.paths())

    def measure_training(self) -> None:
        """Time training, each arm's windows in turn with the others'.

        On a CPU the arms' processes stay, stopped while another is measured, so that each is warm; on a GPU, whose
        memory they would share, each measurement has a process of its own.
        """
        stay = self._benchmark.device == "cpu"
        for name in self._left(TRAINING) if stay else ():
            self.say(f"{self.arms[name].label}: warming up")
            with self.attempt(name):
                self._start_training(self.arms[name])
            self._end_failed()

        def window(name: str) -> dict[str, Any]:
            arm = self.arms[name]
            self.say(arm.label)
            resident = page_cache.resident_share(self.data.files(arm))
            worker = self._workers[name] if stay else self._start_training(arm)
            taken = self._metered(worker, lambda: worker.ask("window", steps=self._benchmark.window, timeout=_TIMEOUT))
            if not stay:
                self._end_training(arm)
            return taken | {"resident_before": resident, **training_rates(taken)}

        self._taken |= self.in_turn(self._left(TRAINING), self._benchmark.repeats, window)
        self._end_failed()

    def measure_inference(self) -> None:
        """Time prediction, from a checkpoint of each system's training."""
        checkpoints: dict[str, dict[str, Any]] = {}
        for system in sorted({self.arms[name].system for name in self._left(INFERENCE)}):
            try:
                checkpoints[system] = self._checkpoint(system)
            except ArmError as error:
                names = [name for name in self._left(INFERENCE) if self.arms[name].system == system]
                self.failed |= dict.fromkeys(names, f"there is no model to predict with: {error}")
        self._end_workers()

        def predict(name: str) -> dict[str, Any]:
            arm = self.arms[name]
            self.say(arm.label)
            if name not in self._workers:
                self._workers[name] = self._start(f"predict_{arm.system}", arm)
                self.found[name]["versions"] = self._workers[name].ask("versions")
                self._predict(arm, checkpoints[arm.system])  # what is compiled or mapped on first use
            taken = self._metered(self._workers[name], lambda: self._predict(arm, checkpoints[arm.system]))
            return taken | inference_rates(taken)

        self._taken |= self.in_turn(self._left(INFERENCE), self._benchmark.repeats, predict)

    def arm_result(self, arm: Arm) -> dict[str, Any]:
        """Return what was found of an arm, as it is written to JSON."""
        result = asdict(arm) | {"not_run": self.failed.get(arm.name)} | self.found[arm.name]
        if taken := self._taken.get(arm.name):
            result |= {"runs": taken, **summaries(taken)}
        return result

    def _left(self, task: str) -> list[str]:
        return [name for name in self.left() if self.arms[name].task == task]

    def _metered(self, worker: Worker, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Let a stopped process do its work and stop it again; the energy that GPUs used is part of the answer."""
        gpus = self._benchmark.gpus if self._benchmark.device == "cuda" else 0
        worker.resume()
        before = joules(gpus)
        taken = work()
        after = joules(gpus)
        worker.pause()
        return taken | {"joules": None if before is None or after is None else after - before}

    def _end_workers(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _end_failed(self) -> None:
        for name in self.failed.keys() & self._workers.keys():
            self._workers.pop(name).close()

    def _start(self, driver: str, arm: Arm) -> Worker:
        threads = self._benchmark.threads
        if arm.system == SCALE:
            return self._bench.start(DRIVERS / driver, OWN, threads=threads)
        return self._bench.start(DRIVERS / driver, self._state, threads=threads, paths=[self.data.packages()])

    def _start_training(self, arm: Arm) -> Worker:
        """Start an arm's process, and let it train until it is warm."""
        began = time.monotonic()
        worker = self._workers[arm.name] = self._start(f"train_{arm.system}", arm)
        versions = worker.ask("versions")
        out = self._runs / arm.name
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(self._runs / f"{arm.name}.csv", ignore_errors=True)
        request = self._scale_request(arm) if arm.system == SCALE else self._state_request(arm)
        warm = worker.ask("train", timeout=_TIMEOUT, out=out, warm_up=_WARM_UP, **request)
        worker.pause()
        self.found[arm.name] |= {"versions": versions, "start_seconds": time.monotonic() - began, **warm}
        return worker

    def _end_training(self, arm: Arm) -> dict[str, Any]:
        with self._workers.pop(arm.name) as worker:
            worker.resume()
            return worker.ask("end", timeout=_TIMEOUT)

    def _scale_request(self, arm: Arm) -> dict[str, Any]:
        sizes, benchmark = self._benchmark.sizes, self._benchmark
        compute = {"device": benchmark.device, "devices": benchmark.gpus, "threads": benchmark.threads}
        return {
            "store": self.data.store,
            "split": self.data.split,
            "model": sizes.scale_model(),
            "compute": compute
            | {"precision": arm.precision, "matmul_precision": "medium", "upload_counts": benchmark.device == "cuda"},
            "training_settings": sizes.scale_training(),
        }

    def _state_request(self, arm: Arm) -> dict[str, Any]:
        options, benchmark = arm.options, self._benchmark
        config = benchmark.sizes.state_config(
            data=str(self.data.state_toml(sorted_rows=options["consecutive"])),
            workers=options["workers"],
            consecutive=options["consecutive"],
        )
        if benchmark.gpus > 1:
            # Its own `ddp` fails on parameters without a gradient.
            config += [f"training.devices={benchmark.gpus}", "training.strategy=ddp_find_unused_parameters_true"]
        return {
            "config": config,
            "precision": {"fp32": "32-true", "bf16": "bf16-mixed"}[arm.precision],
            "hold": options["hold"],
            "store": self.data.store if options["loader"] else None,
            "split": self.data.split,
            "blocks": benchmark.sizes.blocks() if options["blocks"] else None,
            "device": benchmark.device,
        }

    def _checkpoint(self, system: str) -> dict[str, Any]:
        """End a training in fp32 with nothing of the other in it, and return what its driver says of its checkpoint."""
        arms = [arm for arm in training_arms(0) if arm.system == system and arm.precision == "fp32"]
        arms = [arm for arm in arms if not arm.options.get("loader")]
        # STATE's `tx predict` reads as the training of its run did: the last reads fastest, and starts fastest.
        arm = arms[-1]
        self.found.setdefault(arm.name, {})
        if arm.name not in self._workers:
            self._start_training(arm)
        return self._end_training(arm)

    def _predict(self, arm: Arm, trained: dict[str, Any]) -> dict[str, Any]:
        out = self._runs / f"{arm.name}.h5ad"
        request: dict[str, Any] = {"threads": self._benchmark.threads, "out": out, **arm.options}
        if arm.system == SCALE:
            request |= {"checkpoint": trained["checkpoint"], "controls": self.data.part_counts}
        else:
            request |= {**trained, "adata": self.data.part_dense}
        with contextlib.suppress(FileNotFoundError):
            out.unlink()
        return self._workers[arm.name].ask("predict", timeout=_TIMEOUT, **request)
