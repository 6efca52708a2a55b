"""The throughput benchmark: one screen in both projects' formats, every arm in a process of its own, measured in turn."""

import contextlib
import datetime
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bionemo.cellsets.bench import page_cache
from bionemo.cellsets.bench.alternation import alternate
from bionemo.cellsets.bench.environments import ArmError, Environment
from bionemo.cellsets.bench.machine import machine_facts
from bionemo.cellsets.bench.screen import ScreenSize
from bionemo.cellsets.bench.worker import Bench, Worker
from bionemo.cellsets.errors import choices
from bionemo.scale.bench.arms import INFERENCE, SCALE, STATE, TRAINING, Arm, inference_arms, training_arms
from bionemo.scale.bench.data import OWN, BenchmarkData
from bionemo.scale.bench.gpu import Energy, gpu_facts
from bionemo.scale.bench.records import headline, inference_rates, ratios, summaries, training_rates
from bionemo.scale.bench.sizes import SIZES, Size
from bionemo.scale.bench.state_environment import StateEnvironment
from bionemo.scale.errors import InputError

SCHEMA = "bionemo-scale throughput benchmark 1"
DRIVERS = Path(__file__).parent / "drivers"
_WARM_UP = 3
_TIMEOUT = 3600.0


@dataclass(frozen=True, kw_only=True)
class ThroughputBenchmark:
    """What is measured, and on what.

    Attributes
    ----------
    size : str
        Name of one of `SIZES`.
    screen : ScreenSize
        The cells.
    device : str
        "cpu" or "cuda".
    gpus : int
        Processes that share a training; above 1 for CUDA only.
    steps : int
        Of one measurement; 0 for what the size says.
    repeats : int
        Measurements of each arm, at least 3.
    tasks : tuple of str
        `TRAINING`, `INFERENCE` or both.
    arms : tuple of str
        Names of the arms to measure; all where empty.
    threads : int
        That each process computes with.
    convert_again : bool
        Make and time the formats anew where they are in the cache.
    """

    size: str
    screen: ScreenSize
    device: str = "cpu"
    gpus: int = 1
    steps: int = 0
    repeats: int = 3
    tasks: tuple[str, ...] = (TRAINING, INFERENCE)
    arms: tuple[str, ...] = ()
    threads: int = 1
    convert_again: bool = False

    def __post_init__(self):
        if self.size not in SIZES:
            raise InputError(f"--size {self.size} is none of {', '.join(SIZES)}.")
        for name, least in (("repeats", 3), ("threads", 1), ("gpus", 1), ("steps", 0)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"--{name} {value} must be at least {least}.")
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"--device {self.device} is neither cpu nor cuda.")
        if self.gpus > 1 and self.device == "cpu":
            raise InputError(f"--gpus {self.gpus} needs --device cuda.")
        cells = self.screen.cells / self.screen.contexts / self.screen.perturbations
        if cells < self.sizes.set_size:
            raise InputError(
                f"--cells {self.screen.cells} leaves about {cells:.0f} for a condition, fewer than the "
                f"{self.sizes.set_size} of a set: ask for more, or for fewer perturbations."
            )

    @property
    def sizes(self) -> Size:
        """Sizes of the models."""
        return SIZES[self.size]

    @property
    def window(self) -> int:
        """Steps of one measurement."""
        return self.steps or self.sizes.steps[self.device == "cuda"]

    def chosen_arms(self, cores: int) -> list[Arm]:
        """Return the arms to measure on a machine of so many cores.

        Raises
        ------
        InputError
            If a name is none of theirs.
        """
        every = [*training_arms(max(0, cores - self.threads)), *inference_arms(self.sizes.sets_per_batch)]
        known = {arm.name: arm for arm in every if arm.task in self.tasks}
        for name in self.arms:
            if name not in known:
                raise InputError(f"--arm {name}: {choices(name, known)}")
        return [arm for arm in known.values() if not self.arms or arm.name in self.arms]


def run_throughput_benchmark(
    benchmark: ThroughputBenchmark, cache: Path, *, state: Environment | None = None, progress: bool = True
) -> dict[str, Any]:
    """Measure.

    Parameters
    ----------
    benchmark : ThroughputBenchmark
        What.
    cache : Path
        Directory of data, runs and logs; data that are there from an earlier run are used.
    state : Environment, optional
        Where STATE runs; by default `StateEnvironment`.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    dict
        The result, as it is written to JSON; docs/throughput.md describes it.

    Raises
    ------
    InputError
        If something in `benchmark` is wrong, or there is no such device.
    """
    began = time.monotonic()
    facts = machine_facts() | gpu_facts(benchmark.device, benchmark.gpus)
    arms = benchmark.chosen_arms(facts["cores"])
    run = _Run(benchmark, arms, cache, state or StateEnvironment(), progress)
    try:
        run.make_data()
        run.measure_training()
        run.measure_inference()
    finally:
        run.close()
    found = [run.arm_result(arm) for arm in arms]
    return {
        "schema": SCHEMA,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "took_seconds": time.monotonic() - began,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "machine": facts,
        "settings": asdict(benchmark) | {"models": asdict(benchmark.sizes), "steps": benchmark.window},
        "formats": run.data.made,
        "arms": found,
        "ratios": ratios(found),
        "headline": headline(found),
    }


class _Run:
    """The state of a run: what has been found so far."""

    def __init__(self, benchmark: ThroughputBenchmark, arms: list[Arm], cache: Path, state: Environment, progress: bool):
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

        On a CPU the arms' processes stay, stopped while another is measured, so that each is warm; on a GPU, whose memory
        they would share, each measurement has a process of its own.
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
        for name in [name for name in self._workers if self._arms[name].task == TRAINING]:
            self._workers.pop(name).close()

    def _of(self, task: str) -> list[Arm]:
        return [arm for arm in self._arms.values() if arm.task == task and arm.name not in self._failed]

    def _say(self, what: str) -> None:
        self._bar.set_postfix_str(what)
        self._bar.update()

    def _fail(self, arm: Arm, error: ArmError) -> None:
        self._failed[arm.name] = str(error)
        if worker := self._workers.pop(arm.name, None):
            worker.close()

    def _alternate(self, names: Sequence[str], measure: Any) -> None:
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
        training = sizes.scale_training(precision=arm.precision, threads=benchmark.threads, devices=benchmark.gpus)
        return {
            "store": self.data.store,
            "split": self.data.split,
            "model": sizes.scale_model(),
            "training_settings": training | {"upload_counts": benchmark.device == "cuda"},
        }

    def _state_request(self, arm: Arm) -> dict[str, Any]:
        options, benchmark = arm.options, self._benchmark
        config = benchmark.sizes.state_config(
            data=str(self.data.state_toml(sorted_rows=options["consecutive"])),
            workers=options["workers"],
            consecutive=options["consecutive"],
            device=benchmark.device,
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
        known = [*self._arms.values(), *training_arms(0)]
        arms = [
            arm
            for arm in known
            if arm.task == TRAINING and arm.system == system and arm.precision == "fp32" and not arm.options.get("loader")
        ]
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
