"""Measure arms in turn, so that what changes on the machine during a run touches all of them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

from tqdm import tqdm

from bionemo.bench.harness.environments import ArmError


class Run:
    """A `Run` is a benchmark under way: its arms, what was found of each, and why some cannot be measured.

    Parameters
    ----------
    arms : sequence
        What is measured; an arm has a `name`.
    title : str
        What the progress bar is called.
    steps : int
        How often `say` will be called.
    progress : bool
        Show the progress bar on standard error.
    """

    def __init__(self, arms: Sequence[Any], title: str, steps: int, progress: bool):
        self.arms = {arm.name: arm for arm in arms}
        self.found: dict[str, dict[str, Any]] = {name: {} for name in self.arms}
        self.failed: dict[str, str] = {}
        self._bar = tqdm(total=steps, desc=title, disable=not progress)

    def say(self, what: str) -> None:
        """Show what is being done."""
        self._bar.set_postfix_str(what)
        self._bar.update()

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()

    @contextlib.contextmanager
    def attempt(self, *names: str) -> Iterator[None]:
        """Note that these arms cannot be measured where what is done meanwhile raises an `ArmError`."""
        try:
            yield
        except ArmError as error:
            self.failed |= dict.fromkeys(names, str(error))

    def left(self) -> list[str]:
        """Return the names of the arms that have not failed."""
        return [name for name in self.arms if name not in self.failed]

    def in_turn(
        self, names: Sequence[str], repeats: int, measure: Callable[[str], dict[str, Any]]
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the measurements of each of these arms that did not fail."""
        taken, failed = alternate(names, repeats, measure)
        self.failed |= failed
        return taken


def alternate(
    names: Sequence[str], repeats: int, measure: Callable[[str], dict[str, Any]]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Measure each arm `repeats` times, forwards and backwards through the arms by turns.

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
