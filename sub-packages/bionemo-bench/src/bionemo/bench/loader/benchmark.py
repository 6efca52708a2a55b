"""The loader benchmark: one screen, every arm's format of it, outputs compared, then loops timed in turn."""

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bionemo.bench.harness import page_cache
from bionemo.bench.harness.alternation import alternate, summary
from bionemo.bench.harness.environments import ArmError
from bionemo.bench.harness.formats import Formats
from bionemo.bench.harness.machine import machine_facts, memory_rates
from bionemo.bench.harness.report import described
from bionemo.bench.harness.screen import TARGET_SUM, ScreenSize, reference_counts
from bionemo.bench.harness.worker import Bench, Worker
from bionemo.bench.loader.arms import Arm, own_arms, peer_arms
from bionemo.bench.loader.formats import FORMATS
from bionemo.bench.loader.large_store import write_large_store
from bionemo.screens.errors import InputError, choices

SCHEMA = "bionemo-cellsets loader benchmark 1"
_SAMPLED_BATCHES = 2
_BUFFERS = 8  # a loader that holds one batch and reads two ahead writes target and control cells in so many


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark:
    """What is measured, and how long.

    Attributes
    ----------
    size : ScreenSize
        Of the screen.
    set_size, sets_per_batch : int
        Cells of a set, S, and sets of a batch, B.
    seconds : float
        Of one measurement; epochs follow each other until then.
    repeats : int
        Measurements of each arm, at least 3.
    peers : bool
        Measure other projects' loaders too, each in an environment that is made for it.
    arms : tuple of str
        Names of the arms to measure; all where empty.
    cold : bool
        Measure once more with the files dropped from the page cache.
    large_cells : int
        Rows of the store whose opening is measured; 0 for none.
    convert_again : bool
        Make and time the formats anew where they are in the cache.
    """

    size: ScreenSize
    set_size: int = 64
    sets_per_batch: int = 16
    seconds: float = 10.0
    repeats: int = 3
    peers: bool = False
    arms: tuple[str, ...] = ()
    cold: bool = True
    large_cells: int = 100_000_000
    convert_again: bool = False

    def __post_init__(self):
        for name, least in (("set_size", 1), ("sets_per_batch", 1), ("repeats", 3), ("large_cells", 0)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"{name} is {value}: it must be at least {least}")
        if 0 < self.large_cells < 100_000:
            raise InputError(f"large_cells is {self.large_cells}: give 0, or at least 100000")
        if self.seconds <= 0:
            raise InputError(f"seconds is {self.seconds}: it must be above 0")

    def chosen_arms(self, cores: int) -> list[Arm]:
        """Return the arms to measure.

        Raises
        ------
        InputError
            If a name is none of theirs.
        """
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
    """Measure.

    Parameters
    ----------
    benchmark : LoaderBenchmark
        What.
    cache : Path
        Directory of environments, data and logs; what is there from an earlier run is used.
    arms : sequence of Arm, optional
        Instead of those that `benchmark` names.
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
    arms = benchmark.chosen_arms(facts["cores"]) if arms is None else list(arms)
    run = _Run(benchmark, arms, cache, progress)
    run.make_data()
    run.compare_outputs()
    batch_bytes = benchmark.set_size * benchmark.sets_per_batch * benchmark.size.genes * 4
    run.say("memory rates")
    rates = memory_rates(batch_bytes, _BUFFERS, min(1.0, benchmark.seconds))
    run.measure()
    large = run.large_store() if benchmark.large_cells else None
    run.bar.close()
    return described(SCHEMA, began, facts | {"bytes_per_second": rates}, asdict(benchmark)) | {
        "formats": run.formats.made,
        "arms": [run.arm_result(arm) for arm in arms],
        "large_store": large,
    }


class _Run:
    """The state of a run: what has been found so far."""

    def __init__(self, benchmark: LoaderBenchmark, arms: list[Arm], cache: Path, progress: bool):
        self._benchmark, self._arms, self._bench = benchmark, arms, Bench(cache)
        self.formats = Formats(
            self._bench,
            self._bench.data / benchmark.size.name,
            benchmark.size,
            again=benchmark.convert_again,
            progress=progress,
            known=FORMATS,
        )
        self._failed: dict[str, str] = {}
        self._found: dict[str, dict[str, Any]] = {arm.name: {} for arm in arms}
        steps = len(arms) * (2 + benchmark.repeats * (1 + benchmark.cold)) + 1 + bool(benchmark.large_cells)
        self.bar = tqdm(total=steps, desc="bench loader", unit="step", disable=not progress)

    def say(self, what: str) -> None:
        """Show what is being done."""
        self.bar.set_postfix_str(what)
        self.bar.update()

    def make_data(self) -> None:
        """Write the screen and convert it to every format that an arm reads."""
        self.formats.make_screen()
        for arm in self._arms:
            self.say(f"{arm.label}: data")
            try:
                for name in ("sorted", arm.format):
                    self.formats.make(name)
            except ArmError as error:
                self._failed[arm.name] = str(error)

    def compare_outputs(self) -> None:
        """Check every arm's cells against the counts of the screen; an arm that differs is not timed."""
        for arm in self._arms:
            self.say(f"{arm.label}: comparing its output")
            if arm.name in self._failed:
                continue
            try:
                with self._opened(arm) as workers:
                    self._found[arm.name] |= {
                        "versions": workers[0].ask("versions"),
                        "check": self._compared(arm, workers[0]),
                    }
            except ArmError as error:
                self._failed[arm.name] = str(error)

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
        arms = {arm.name: arm for arm in self._arms}
        page_cache.warm({path for arm in self._arms for path in self.formats.data_of(arm.format)})

        def warm_run(name: str) -> dict[str, Any]:
            self.say(f"{arms[name].label}: warm")
            resident = page_cache.resident_share(self.formats.data_of(arms[name].format))
            with self._opened(arms[name]) as workers:
                # What is compiled or mapped on first use is no part of a long run.
                warmed = self._ask_all(workers, "run", seconds=min(1.0, self._benchmark.seconds), epochs=None)
                # The first batch after opening: ours goes on with its iterator afterwards, others begin a new one.
                first = max(answer["first_batch_seconds"] for answer in warmed)
                return {"resident_before": resident, **self._timed(workers, epochs=None), "first_batch_seconds": first}

        def cold_run(name: str) -> dict[str, Any]:
            self.say(f"{arms[name].label}: cold")
            data = self.formats.data_of(arms[name].format)
            page_cache.drop(data)
            resident = page_cache.resident_share(data)
            with self._opened(arms[name]) as workers:
                return {"resident_before": resident, **self._timed(workers, epochs=1)}

        names = [name for name in arms if name not in self._failed]
        for phase, measure in (("warm", warm_run), ("cold", cold_run)):
            if phase == "warm" or self._benchmark.cold:
                runs, failed = alternate(names, self._benchmark.repeats, measure)
                self._failed |= failed
                names = list(runs)
                for name, taken in runs.items():
                    self._found[name][phase] = _rates(taken)

    def _timed(self, workers: list[Worker], epochs: int | None) -> dict[str, Any]:
        answers = self._ask_all(workers, "run", seconds=self._benchmark.seconds, epochs=epochs)
        if any(answer["distinct_cells"] == 0 for answer in answers):
            raise ArmError("it handed out no second batch in the time of a measurement: give it more --seconds")
        summed = ("cpu_seconds", "cells", "distinct_cells", "control_rows", "peak_rss_bytes", "own_bytes")
        return {
            "wall_seconds": max(answer["end"] for answer in answers) - min(answer["begin"] for answer in answers),
            **{name: sum(answer[name] for answer in answers) for name in summed},
            "epochs": max(answer["epochs"] for answer in answers),
            "first_batch_seconds": max(answer["first_batch_seconds"] for answer in answers),
        }

    def _ask_all(self, workers: list[Worker], do: str, **arguments: Any) -> list[dict[str, Any]]:
        """Let all ranks of an arm do something at the same time."""
        for worker in workers:
            worker.send(do, **arguments)
        return [worker.receive(timeout=600 + 10 * self._benchmark.seconds) for worker in workers]

    def large_store(self) -> dict[str, Any]:
        """Measure the opening of a store that has only its tables."""
        self.say("a large store")
        folder = self._bench.data / "large"
        shutil.rmtree(folder, ignore_errors=True)
        store = FORMATS["store"]
        try:
            write_large_store(folder, self._benchmark.large_cells)
            with self._bench.start(store.driver, store.environment) as worker:
                sizes = {name: getattr(self._benchmark, name) for name in ("set_size", "sets_per_batch")}
                return worker.ask("open_large", path=folder, steps=200, **sizes)
        except (ArmError, OSError) as error:
            return {"not_run": str(error)}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def arm_result(self, arm: Arm) -> dict[str, Any]:
        """Return what was found of an arm, as it is written to JSON."""
        described = {name: getattr(arm, name) for name in ("name", "label", "reads", "format", "ranks", "is_peer")}
        described |= {"options": arm.options, "requirements": list(arm.environment.requirements)}
        return described | {"not_run": self._failed.get(arm.name)} | self._found[arm.name]

    @contextlib.contextmanager
    def _opened(self, arm: Arm) -> Iterator[list[Worker]]:
        """Start an arm's ranks and open its data; end them at the end."""
        options = {name: getattr(self._benchmark, name) for name in ("set_size", "sets_per_batch")}
        options |= {"sorted": str(self.formats.folder_of("sorted")), "world_size": arm.ranks} | arm.options
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(self._bench.start(arm.driver, arm.environment)) for _ in range(arm.ranks)]
            for rank, worker in enumerate(workers):
                path = self.formats.folder_of(arm.format)
                self._found[arm.name]["open_seconds"] = worker.ask("open", path=path, options=options | {"rank": rank})[
                    "seconds"
                ]
            yield workers


def _rates(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rates = {
        "cells_per_second": [run["distinct_cells"] / run["wall_seconds"] for run in runs],
        "cells_per_cpu_second": [run["distinct_cells"] / run["cpu_seconds"] for run in runs],
        "rows_per_second": [(run["cells"] + run["control_rows"]) / run["wall_seconds"] for run in runs],
        "rows_per_cpu_second": [(run["cells"] + run["control_rows"]) / run["cpu_seconds"] for run in runs],
    }
    return {"runs": runs, **{name: summary(values) for name, values in rates.items()}}
