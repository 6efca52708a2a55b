"""Run the loader benchmark: one screen, every arm's format of it, outputs compared, then loops timed in turn."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bionemo.bench.harness import page_cache
from bionemo.bench.harness.environments import ArmError
from bionemo.bench.harness.formats import Formats
from bionemo.bench.harness.machine import machine_facts, memory_rates
from bionemo.bench.harness.report import described
from bionemo.bench.harness.run import Run, summary
from bionemo.bench.harness.screen import TARGET_SUM, ScreenSize, reference_counts
from bionemo.bench.harness.worker import Bench, Worker
from bionemo.bench.loader.arms import FORMATS, Arm, own_arms, peer_arms
from bionemo.screens.errors import InputError, choices

SCHEMA = "bionemo-cellsets loader benchmark 2"
_SAMPLED_BATCHES = 2
_BUFFERS = 8  # a loader that holds one batch and reads two ahead writes target and control cells in so many


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark:
    """A `LoaderBenchmark` says what is measured, and how long."""

    size: ScreenSize
    set_size: int = 64
    """Cells of a set, S."""
    sets_per_batch: int = 16
    """Sets of a batch, B."""
    seconds: float = 10.0
    """Time of one measurement; epochs follow each other until then."""
    repeats: int = 3
    """Measurements of each arm, at least 3."""
    peers: bool = False
    """Measure other projects' loaders too, each in an environment that is made for it."""
    arms: tuple[str, ...] = ()
    """Names of the arms to measure; all where empty."""
    cold: bool = True
    """Measure once more with the files dropped from the page cache."""
    convert_again: bool = False
    """Make and time the formats anew where they are in the cache."""

    def __post_init__(self):
        for name, least in (("set_size", 1), ("sets_per_batch", 1), ("repeats", 3)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"{name} is {value}: it must be at least {least}")
        if self.seconds <= 0:
            raise InputError(f"seconds is {self.seconds}: it must be above 0")

    def chosen_arms(self, cores: int) -> list[Arm]:
        """Return the arms to measure; an InputError for a name that is none of theirs."""
        known = {arm.name: arm for arm in (*own_arms(), *peer_arms(cores))}
        for name in self.arms:
            if name not in known:
                raise InputError(f"There is no arm '{name}': {choices(name, known)}")
        if self.arms:
            return [arm for name, arm in known.items() if name in self.arms]
        return [arm for arm in known.values() if self.peers or not arm.is_peer]


def run_loader_benchmark(
    benchmark: LoaderBenchmark, cache: Path, *, arms: Sequence[Arm] | None = None, progress: bool = True
) -> dict[str, Any]:
    """Measure what a `LoaderBenchmark` says.

    Parameters
    ----------
    benchmark : LoaderBenchmark
        What to measure.
    cache : Path
        Directory of environments, data and logs; what is there from an earlier run is used.
    arms : sequence of Arm, optional
        Arms to measure in place of those that `benchmark` names.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    dict
        The result, as it is written to JSON; docs/reference/loader_benchmark.md describes it.

    Raises
    ------
    InputError
        If something in `benchmark` is wrong.
    """
    began = time.monotonic()
    facts = machine_facts()
    arms = benchmark.chosen_arms(facts["cores"]) if arms is None else arms
    with contextlib.closing(_LoaderRun(benchmark, arms, cache, progress)) as run:
        run.make_data()
        run.compare_outputs()
        run.say("memory rates")
        batch_bytes = benchmark.set_size * benchmark.sets_per_batch * benchmark.size.genes * 4
        rates = memory_rates(batch_bytes, _BUFFERS, min(1.0, benchmark.seconds))
        run.measure()
    return described(SCHEMA, began, facts | {"bytes_per_second": rates}, asdict(benchmark)) | {
        "formats": run.formats.made,
        "arms": [run.arm_result(arm) for arm in run.arms.values()],
    }


class _LoaderRun(Run):
    """A `_LoaderRun` carries the benchmark out, step by step."""

    def __init__(self, benchmark: LoaderBenchmark, arms: Sequence[Arm], cache: Path, progress: bool):
        steps = len(arms) * (2 + benchmark.repeats * (1 + benchmark.cold)) + 1
        super().__init__(arms, "bench loader", steps, progress)
        self._benchmark, self._bench = benchmark, Bench(cache)
        self.formats = Formats(
            self._bench,
            self._bench.data / benchmark.size.name,
            benchmark.size,
            again=benchmark.convert_again,
            progress=progress,
            known=FORMATS,
        )

    def make_data(self) -> None:
        """Write the screen and convert it to every format that an arm reads."""
        self.formats.make_screen()
        for arm in self.arms.values():
            self.say(f"{arm.label}: data")
            with self.attempt(arm.name):
                for name in ("sorted", arm.format):
                    self.formats.make(name)

    def compare_outputs(self) -> None:
        """Check every arm's cells against the counts of the screen; an arm that differs is not timed."""
        for name in self.left():
            arm = self.arms[name]
            self.say(f"{arm.label}: comparing its output")
            with self.attempt(name), self._opened(arm) as workers:
                self.found[name]["versions"] = workers[0].ask("versions")
                self.found[name]["check"] = self._compared(arm, workers[0])

    def _compared(self, arm: Arm, worker: Worker) -> dict[str, Any]:
        out = self.formats.folder_of("sample.npz")
        worker.ask("sample", out=out, batches=_SAMPLED_BATCHES)
        with np.load(out) as sample:
            cells, expression = sample["cells"], sample["expression"]
        out.unlink()
        counts = reference_counts(self.formats.folder_of("screen"), cells)
        scale = TARGET_SUM / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        difference = float(np.abs(expression - np.log1p(counts * scale)).max())
        differing = int((np.rint(np.expm1(expression.astype(np.float64)) / scale) != counts).sum())
        check = {"cells": len(cells), "largest_difference": difference, "tolerance": arm.tolerance}
        check["differing_counts"] = differing if arm.exact_counts else None
        # Turned round, so that what is not a number fails as well.
        if not difference <= arm.tolerance or (arm.exact_counts and differing):
            raise ArmError(f"its output differs from the screen by up to {difference:.2g}, {differing} counts differ")
        return check

    def measure(self) -> None:
        """Time the arms, warm and then cold, each time in new processes: all arms' memory at once may not fit."""
        page_cache.warm({path for arm in self.arms.values() for path in self.formats.data_of(arm.format)})

        def warm_run(name: str) -> dict[str, Any]:
            self.say(f"{self.arms[name].label}: warm")
            resident = page_cache.resident_share(self.formats.data_of(self.arms[name].format))
            with self._opened(self.arms[name]) as workers:
                # What is compiled or mapped on first use is no part of a long run.
                warmed = self._ask_all(workers, "run", seconds=min(1.0, self._benchmark.seconds), epochs=None)
                # The first batch after opening: ours goes on with its iterator afterwards, others begin a new one.
                first = max(answer["first_batch_seconds"] for answer in warmed)
                return {"resident_before": resident, **self._timed(workers, epochs=None), "first_batch_seconds": first}

        def cold_run(name: str) -> dict[str, Any]:
            self.say(f"{self.arms[name].label}: cold")
            data = self.formats.data_of(self.arms[name].format)
            page_cache.drop(data)
            resident = page_cache.resident_share(data)
            with self._opened(self.arms[name]) as workers:
                return {"resident_before": resident, **self._timed(workers, epochs=1)}

        phases = {"warm": warm_run} | ({"cold": cold_run} if self._benchmark.cold else {})
        for phase, measure in phases.items():
            for name, taken in self.in_turn(self.left(), self._benchmark.repeats, measure).items():
                self.found[name][phase] = _rates(taken)

    def _timed(self, workers: list[Worker], epochs: int | None) -> dict[str, Any]:
        answers = self._ask_all(workers, "run", seconds=self._benchmark.seconds, epochs=epochs)
        if any(answer["distinct_cells"] == 0 for answer in answers):
            raise ArmError("it handed out no second batch in the time of a measurement: give it more --seconds")
        summed = ("cpu_seconds", "cells", "distinct_cells", "control_rows", "peak_rss_bytes", "own_bytes")
        return {
            "wall_seconds": max(answer["end"] for answer in answers) - min(answer["begin"] for answer in answers),
            **{name: sum(answer[name] for answer in answers) for name in summed},
            **{name: max(answer[name] for answer in answers) for name in ("epochs", "first_batch_seconds")},
        }

    def _ask_all(self, workers: list[Worker], do: str, **arguments: Any) -> list[dict[str, Any]]:
        """Let all ranks of an arm do something at the same time."""
        for worker in workers:
            worker.send(do, **arguments)
        return [worker.receive(timeout=600 + 10 * self._benchmark.seconds) for worker in workers]

    def arm_result(self, arm: Arm) -> dict[str, Any]:
        """Return what was found of an arm, as it is written to JSON."""
        said = {
            name: getattr(arm, name) for name in ("name", "label", "reads", "format", "ranks", "is_peer", "options")
        }
        said |= {"requirements": list(arm.environment.requirements), "not_run": self.failed.get(arm.name)}
        return said | self.found[arm.name]

    @contextlib.contextmanager
    def _opened(self, arm: Arm) -> Iterator[list[Worker]]:
        """Start an arm's ranks and open its data; end them at the end."""
        options = {name: getattr(self._benchmark, name) for name in ("set_size", "sets_per_batch")}
        options |= {"sorted": str(self.formats.folder_of("sorted")), "world_size": arm.ranks} | arm.options
        path = self.formats.folder_of(arm.format)
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(self._bench.start(arm.driver, arm.environment)) for _ in range(arm.ranks)]
            for rank, worker in enumerate(workers):
                opened = worker.ask("open", path=path, options=options | {"rank": rank})
                self.found[arm.name]["open_seconds"] = opened["seconds"]
            yield workers


def _rates(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rates = {
        "cells_per_second": [run["distinct_cells"] / run["wall_seconds"] for run in runs],
        "cells_per_cpu_second": [run["distinct_cells"] / run["cpu_seconds"] for run in runs],
        "rows_per_second": [(run["cells"] + run["control_rows"]) / run["wall_seconds"] for run in runs],
        "rows_per_cpu_second": [(run["cells"] + run["control_rows"]) / run["cpu_seconds"] for run in runs],
    }
    return {"runs": runs, **{name: summary(values) for name, values in rates.items()}}
