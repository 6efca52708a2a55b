"""Arms measured in turn, so that what changes on the machine during a run touches all of them."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from bionemo.bench.harness.environments import ArmError


def alternate(
    names: Sequence[str], repeats: int, measure: Callable[[str], dict[str, Any]]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Measure each arm `repeats` times, forwards and backwards through the arms by turns.

    Parameters
    ----------
    names : sequence of str
        The arms.
    repeats : int
        At least 1.
    measure : callable
        Takes a name and returns one measurement.

    Returns
    -------
    dict, dict
        The measurements of each arm, and why an arm failed. One that fails once is not measured again.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            if name in failed:
                continue
            try:
                runs[name].append(measure(name))
            except ArmError as error:
                failed[name] = str(error)
    return {name: taken for name, taken in runs.items() if name not in failed}, failed


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest of repeated measurements."""
    return {"median": median(values), "least": min(values), "greatest": max(values)}
