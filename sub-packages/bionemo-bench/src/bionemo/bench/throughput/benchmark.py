"""The throughput benchmark: one screen in both projects' formats, each arm in its own process, measured in turn."""

import time
from pathlib import Path
from typing import Any

from bionemo.bench.harness.environments import Environment
from bionemo.bench.harness.report import described
from bionemo.bench.throughput.measuring import Measuring
from bionemo.bench.throughput.records import headline, ratios
from bionemo.bench.throughput.settings import ThroughputBenchmark, settings_of
from bionemo.bench.throughput.state_environment import StateEnvironment

SCHEMA = "bionemo-scale throughput benchmark 1"


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
        The result, as it is written to JSON; docs/reference/throughput_benchmark.md describes it.

    Raises
    ------
    InputError
        If something in `benchmark` is wrong, or there is no such device.
    """
    began = time.monotonic()
    facts, settings = settings_of(benchmark)
    arms = benchmark.chosen_arms(facts["cores"])
    run = Measuring(benchmark, arms, cache, state or StateEnvironment(), progress)
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
