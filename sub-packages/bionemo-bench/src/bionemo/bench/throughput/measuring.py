"""The arms' processes: started, warmed up, measured in turn, ended."""

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bionemo.bench.harness import page_cache
from bionemo.bench.harness.alternation import alternate
from bionemo.bench.harness.environments import ArmError, Environment
from bionemo.bench.harness.formats import OWN
from bionemo.bench.harness.gpu import Energy
from bionemo.bench.harness.worker import Bench, Worker
from bionemo.bench.throughput.arms import INFERENCE, SCALE, TRAINING, Arm, training_arms
from bionemo.bench.throughput.data import BenchmarkData
from bionemo.bench.throughput.records import inference_rates, summaries, training_rates
from bionemo.bench.throughput.settings import ThroughputBenchmark

DRIVERS = Path(__file__).parent / "drivers"
_WARM_UP = 3
_TIMEOUT = 3600.0


class Measuring:
    """The state of a run: what has been found so far.

    Parameters
    ----------
    benchmark : ThroughputBenchmark
        What.
    arms : list of Arm
        To measure.
    cache : Path
        Directory of data, runs and logs.
    state : Environment
        Where STATE runs.
    progress : bool
        Show a progress bar on standard error.
    """

    def __init__(
        self, benchmark: ThroughputBenchmark, arms: list[Arm], cache: Path, state: Environment, progress: bool
    ):
        self._benchmark, self._arms, self._state = benchmark, {arm.name: arm for arm in arms}, state
        self._bench = Bench(cache)
        self._runs = cache.absolute() / "throughput-runs"
        self.data = BenchmarkData(
            self._bench, cache.absolute(), benchmark.screen, again=benchmark.convert_again, progress=progress
        )
        self._failed: dict[str, str] = {}
        self._found: dict[str, dict[str, Any]] = {arm.name: {} for arm in arms}
        self._taken: dict[str, list[dict[str, Any]]] = {}
        self._workers: dict[str, Worker] = {}
        self._energy = Energy(benchmark.gpus if benchmark.device == "cuda" else 0)
        self._bar = tqdm(total=len(arms) * (1 + benchmark.repeats) + 1, desc="bench throughput", disable=not progress)

    def close(self) -> None:
        """End every process that is still there."""
        for worker in self._workers.values():
            worker.close()
        self._bar.close()

    def make_data(self) -> None:
        """Write the screen and its formats, and fill the page cache with them."""
        self._say("data")
        self.data.make()
        page_cache.warm(self.data.paths())

    def measure_training(self) -> None:
        """Time training, each arm's windows in turn with the others'.

        On a CPU the arms' processes stay, stopped while another is measured, so that each is warm; on a GPU, whose
        memory they would share, each measurement has a process of its own.
        """
        arms = self._of(TRAINING)
        stay = self._benchmark.device == "cpu"
        for arm in arms if stay else ():
            try:
                self._say(f"{arm.label}: warming up")
                self._start_training(arm)
            except ArmError as error:
                self._fail(arm, error)

        def window(name: str) -> dict[str, Any]:
            arm = self._arms[name]
            self._say(arm.label)
            resident = page_cache.resident_share(self.data.files(arm))
            worker = self._workers[name] if stay else self._start_training(arm)
            worker.resume()
            joules = self._energy.read()
            taken = worker.ask("window", steps=self._benchmark.window, timeout=_TIMEOUT)
            taken["joules"] = self._energy.since(joules)
            worker.pause()
            if not stay:
                self._end_training(arm)
            return taken | {"resident_before": resident, **training_rates(taken)}

        self._alternate([arm.name for arm in arms], window)

    def measure_inference(self) -> None:
        """Time prediction, from a checkpoint of each system's training."""
        arms = self._of(INFERENCE)
        checkpoints = {}
        for system in sorted({arm.system for arm in arms}):
            try:
                checkpoints[system] = self._checkpoint(system)
            except ArmError as error:
                for arm in arms:
                    if arm.system == system:
                        self._fail(arm, ArmError(f"there is no model to predict with: {error}"))
        self.close_training()

        def predict(name: str) -> dict[str, Any]:
            arm = self._arms[name]
            self._say(arm.label)
            if name not in self._workers:
                self._workers[name] = self._start(f"predict_{arm.system}", arm)
                self._found[name]["versions"] = self._workers[name].ask("versions")
                self._predict(arm, checkpoints[arm.system])  # what is compiled or mapped on first use
            worker = self._workers[name]
            worker.resume()
            joules = self._energy.read()
            taken = self._predict(arm, checkpoints[arm.system])
            taken["joules"] = self._energy.since(joules)
            worker.pause()
            return taken | inference_rates(taken)

        self._alternate([arm.name for arm in arms if arm.name not in self._failed], predict)

    def arm_result(self, arm: Arm) -> dict[str, Any]:
        """Return what was found of an arm, as it is written to JSON."""
        result = asdict(arm) | {"not_run": self._failed.get(arm.name)} | self._found[arm.name]
        if taken := self._taken.get(arm.name):
            result |= {"runs": taken, **summaries(taken)}
        return result

    def close_training(self) -> None:
        """End the processes of training."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _of(self, task: str) -> list[Arm]:
        return [arm for arm in self._arms.values() if arm.task == task and arm.name not in self._failed]

    def _say(self, what: str) -> None:
        self._bar.set_postfix_str(what)
        self._bar.update()

    def _fail(self, arm: Arm, error: ArmError) -> None:
        self._failed[arm.name] = str(error)
        if worker := self._workers.pop(arm.name, None):
            worker.close()

    def _alternate(self, names: Sequence[str], measure: Callable[[str], dict[str, Any]]) -> None:
        names = [name for name in names if name not in self._failed]
        taken, failed = alternate(names, self._benchmark.repeats, measure)
        self._taken |= taken
        for name, reason in failed.items():
            self._fail(self._arms[name], ArmError(reason))

    def _start(self, driver: str, arm: Arm) -> Worker:
        if arm.system == SCALE:
            return self._bench.start(DRIVERS / driver, OWN, threads=self._benchmark.threads)
        paths = [self.data.packages()]
        return self._bench.start(DRIVERS / driver, self._state, threads=self._benchmark.threads, paths=paths)

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
        self._found[arm.name] |= {"versions": versions, "start_seconds": time.monotonic() - began, **warm}
        return worker

    def _end_training(self, arm: Arm) -> dict[str, Any]:
        worker = self._workers.pop(arm.name)
        with worker:
            worker.resume()
            return worker.ask("end", timeout=_TIMEOUT)

    def _scale_request(self, arm: Arm) -> dict[str, Any]:
        sizes, benchmark = self._benchmark.sizes, self._benchmark
        compute = {"precision": arm.precision, "threads": benchmark.threads, "devices": benchmark.gpus}
        return {
            "store": self.data.store,
            "split": self.data.split,
            "model": sizes.scale_model(),
            "compute": compute | {"matmul_precision": "medium", "upload_counts": benchmark.device == "cuda"},
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
        ready = [arm for arm in arms if arm.name in self._workers]
        if ready:
            return self._end_training(ready[0])
        # The last of STATE's is the fastest to start.
        arm = arms[-1]
        self._found.setdefault(arm.name, {})
        self._start_training(arm)
        return self._end_training(arm)

    def _predict(self, arm: Arm, trained: dict[str, Any]) -> dict[str, Any]:
        out = self._runs / f"{arm.name}.h5ad"
        request: dict[str, Any] = {"threads": self._benchmark.threads, "out": out}
        if arm.system == SCALE:
            request |= {"checkpoint": trained["checkpoint"], "controls": self.data.part_counts, **arm.options}
        else:
            request |= {**trained, "adata": self.data.part_dense, **arm.options}
        with contextlib.suppress(FileNotFoundError):
            out.unlink()
        return self._workers[arm.name].ask("predict", timeout=_TIMEOUT, **request)
