"""Simulate screens of several sizes, and take each from the file to the report with the commands that a user gives."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bionemo.bench.atlas.process import measured
from bionemo.bench.harness.machine import machine_facts
from bionemo.bench.harness.report import Result, described, write_json
from bionemo.screens import Split
from bionemo.screens.errors import InputError
from bionemo.screens.simulated_truth import CONTROL_SHARE, numbered
from bionemo.screens.simulation import CONTROL

SCHEMA = "bionemo-scale atlas benchmark 1"
MEASURES = ("wall_seconds", "cpu_seconds", "peak_rss_bytes", "written_bytes")
_VERSIONS = ("bionemo-screens", "bionemo-cellsets", "bionemo-scale", "bionemo-perteval", "anndata", "numpy", "torch")
FILES = {
    "simulate": "screen.h5ad",
    "prepare": "store",
    "pretrain": "run",
    "predict": "predicted",
    "evaluate": "report",
}
"""Stage -> what it makes."""
_FEWEST = 4


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """An `Atlas` says what the screens are and what is done with them; their number of cells comes on top.

    Attributes
    ----------
    contexts, genes
        Of every screen.
    cells_per_condition
        Cells of each perturbation of a context; control cells are three times as many. Larger screens have more
        perturbations.
    held_out
        Share of the perturbations of each context that are predicted and scored, at most half; each trains in other
        contexts.
    steps
        Training steps.
    recipe
        Model and training.
    share
        Share of the network in the prediction; 0 leaves the linear start alone.
    arms
        Baselines of the evaluation: all, or the main ones.
    """

    contexts: int = 10
    genes: int = 2_000
    cells_per_condition: int = 100
    held_out: float = 0.1
    steps: int = 50
    recipe: str = "scale_tiny"
    share: float = 0.5
    arms: str = "main"

    def __post_init__(self):
        if self.contexts < 2:
            raise InputError(f"contexts is {self.contexts}: a held-out perturbation needs another context to train in")
        if not 0 < self.held_out <= 0.5:
            raise InputError(f"held_out is {self.held_out}: give a share above 0, up to 0.5")

    def perturbations(self, cells: int) -> int:
        """Return how many perturbations about so many cells have.

        Raises
        ------
        InputError
            There are too few cells for the contexts and for the perturbations that are held out.
        """
        of_context = self.contexts * self.cells_per_condition
        found, least = round(cells / of_context) - CONTROL_SHARE, max(_FEWEST, self._every)
        if found < least:
            raise InputError(
                f"{cells} cells are too few for {self.contexts} contexts with {least} perturbations of "
                f"{self.cells_per_condition} cells each: ask for at least {(least + CONTROL_SHARE) * of_context}"
            )
        return found

    def cells(self, cells: int) -> int:
        """Return how many cells the screen of about so many has."""
        return (self.perturbations(cells) + CONTROL_SHARE) * self.contexts * self.cells_per_condition

    def test_conditions(self, cells: int) -> dict[str, list[str]]:
        """Return context -> the perturbations that are held out there; neighbours in number in another context."""
        names = numbered("perturbation", self.perturbations(cells))
        contexts = numbered("context", self.contexts)
        return {context: names[number % self._every :: self._every] for number, context in enumerate(contexts)}

    @property
    def _every(self) -> int:
        return round(1 / self.held_out)


def run(atlas: Atlas, sizes: list[int], folder: Path, *, keep: bool, report: Callable[[str], None]) -> Result:
    """Take a screen of each size through all stages; the same call goes on where an earlier one was ended.

    Parameters
    ----------
    atlas
        What the screens are.
    sizes
        About how many cells they have.
    folder
        Where their files go.
    keep
        Whether files stay when their size was measured. What was measured stays until `forget`.
    report
        Called with what begins.

    Returns
    -------
    dict
        What `described` says, versions, and for each size its cells and the measures of each stage.

    Raises
    ------
    InputError
        A size is too small.
    ArmError
        A command failed.
    """
    began, found = time.monotonic(), []
    planned = {atlas.cells(cells): atlas.test_conditions(cells) for cells in sorted(sizes)}
    for cells, test in planned.items():
        conditions = sum(map(len, test.values()))
        found.append(
            {
                "cells": cells,
                "perturbations": atlas.perturbations(cells),
                "predicted_conditions": conditions,
                "predicted_cells": conditions * atlas.cells_per_condition,
                "stages": _stages(atlas, cells, folder / f"cells-{cells}", keep=keep, report=report),
            }
        )
    result = described(SCHEMA, began, machine_facts(), asdict(atlas))
    return result | {"versions": {name: version(name) for name in _VERSIONS}, "sizes": found}


def forget(result: Result, folder: Path) -> None:
    """Remove what a run keeps to go on with; to be called once its result is written."""
    for size in result["sizes"]:
        shutil.rmtree(folder / f"cells-{size['cells']}", ignore_errors=True)


def _stages(atlas: Atlas, cells: int, place: Path, *, keep: bool, report: Callable[[str], None]) -> dict[str, Result]:
    """Return stage -> what it needed; stages that an earlier run of the same kind has measured are not run again."""
    record = place / "measured.json"
    settings = {**asdict(atlas), "commit": machine_facts()["git_commit"]}
    before = json.loads(record.read_text()) if record.is_file() else {}
    stages: dict[str, Result] = before["stages"] if before.get("settings") == settings else {}
    if not stages:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    (place / "split.toml").write_text(split_of(atlas.test_conditions(cells)))
    # What a stage left that was ended would be used by its next run, which would then take less time.
    made = {FILES[stage] for stage in stages} | {"split.toml", record.name}
    _remove(path for path in place.iterdir() if path.name not in made)
    for stage, arguments in commands(atlas, cells, place).items():
        if stage in stages:
            continue
        report(f"{cells:,} cells: {stage}")
        needed = measured([sys.executable, "-m", "bionemo.scale.cli", *arguments], place / f"{stage}.log")
        stages[stage] = needed | {"command": ["bionemo-scale", *arguments]}
        write_json({"settings": settings, "stages": stages}, record)
    if not keep:
        _remove(path for path in place.iterdir() if path != record)
    return stages


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def split_of(test: dict[str, list[str]]) -> str:
    """Return the text of a split file."""
    split = Split(fewshot={context: {"test": frozenset(names)} for context, names in test.items()})
    return split.to_toml("screen", "What an atlas holds out.")


def commands(atlas: Atlas, cells: int, folder: Path) -> dict[str, list[str]]:
    """Return stage -> what `bionemo-scale` is given."""
    screen, store, trained, predicted, report, split = (str(folder / name) for name in (*FILES.values(), "split.toml"))
    sizes = {
        "cells": cells,
        "genes": atlas.genes,
        "contexts": atlas.contexts,
        "perturbations": atlas.perturbations(cells),
        "batches": 1,
    }
    keys = ["--perturbation-key", "perturbation", "--control", CONTROL, "--context-key", "context"]
    return {
        "simulate": ["simulate", screen, *(str(part) for name, size in sizes.items() for part in (f"--{name}", size))],
        "prepare": ["prepare", screen, "--store", store, "--all-genes", *keys],
        "pretrain": [
            *("pretrain", "--store", store, "--split", split, "--out", trained),
            *("--recipe", atlas.recipe, f"training.max_steps={atlas.steps}"),
            f"training.warmup_steps={atlas.steps // 5}",
        ],
        "predict": [
            *("predict", "--checkpoint", trained, "--controls", screen, "--like", screen, "--out", predicted),
            *("--network-share", str(atlas.share)),
        ],
        "evaluate": [
            *("evaluate", "--predicted", predicted, "--observed", screen, "--split", split),
            *("--out", report, "--arms", atlas.arms, "--no-progress"),
        ],
    }


def growth(result: Result, target: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Return stage -> measure -> how it grows, by a straight line through all sizes, least squares.

    Parameters
    ----------
    result
        What `run` returned, of at least two sizes.
    target
        Number of cells that the line is followed to.

    Returns
    -------
    dict
        ``start``, ``per_million_cells`` and ``at_target``, which is an extrapolation; a measure that some run lacks is
        left out.
    """
    cells = np.array([size["cells"] for size in result["sizes"]], dtype=float)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for stage in result["sizes"][0]["stages"]:
        found[stage] = {}
        for measure in MEASURES:
            values = [size["stages"][stage][measure] for size in result["sizes"]]
            if None in values:
                continue
            slope = np.cov(cells, values)[0, 1] / cells.var(ddof=1)
            start = np.mean(values) - slope * cells.mean()
            found[stage][measure] = {
                "start": float(start),
                "per_million_cells": float(slope * 1e6),
                "at_target": float(start + slope * target),
            }
    return found
