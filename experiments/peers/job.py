"""One peer in one fold: trials that choose its settings, then predictions of the held-out conditions."""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from bionemo.bench.harness.worker import Worker
from bionemo.screens.errors import InputError
from experiments.peers.peer import Peer
from experiments.peers.task import Cells, Task
from experiments.real_screens.run import Fold

LONGEST = 24 * 3600
"""Seconds after which a training is given up."""
Step = Callable[[str], AbstractContextManager]
"""Shows what is being done meanwhile."""


@dataclass(frozen=True)
class Job:
    """A `Job` is one peer in one fold. What is done of it lies in files, and is not done again."""

    peer: Peer
    fold: Fold
    out: Path

    @property
    def folder(self) -> Path:
        """Return the folder of its files."""
        return self.out / "peers" / self.peer.name / self.fold.name

    @cached_property
    def cells(self) -> Cells:
        """Return the fold's cells."""
        return Cells.of(self.fold.screen, self.out)

    def trials(self) -> list[dict[str, Any]]:
        """Return what the finished trials found: settings, PDCorr of the validation conditions, seconds.

        Raises
        ------
        InputError
            A trial had other settings than the peer's file now lists.
        """
        files = [self.folder / f"trial_{number}.json" for number in range(len(self._to_try))]
        found = [json.loads(file.read_text()) for file in files if file.exists()]
        for file, trial, settings in zip(files, found, self._to_try, strict=False):
            if trial["settings"] != settings:
                raise InputError(f"{file} was made with other settings: name another --out, or delete {self.folder}")
        return found

    @property
    def best(self) -> int:
        """Return the number of the settings that predicted the validation conditions best, the first of equals."""
        found = self.trials()
        return int(np.argmax([trial["PDCorr"] for trial in found])) if found else 0

    def predicted(self, seed: int) -> Path:
        """Return the file of a seed's prediction of the test conditions with the best settings."""
        return self.folder / f"settings_{self.best}-seed_{seed}.h5ad"

    def missing(self, seeds: int) -> int:
        """Return how many trainings are left to do."""
        trials = len(self._to_try) - len(self.trials())
        return trials + (seeds if trials else sum(not self.predicted(seed).exists() for seed in range(seeds)))

    def run(self, worker: Worker, seeds: int, step: Step) -> None:
        """Do the trainings that are left.

        Raises
        ------
        ArmError
            The peer fails.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in range(len(self.trials()), len(self._to_try)):
            with step(f"{self.peer.name}, {self.fold.name}, settings {number}"):
                # The first seed chooses for all.
                task = self.cells.task("val", seed=0)
                predicted, seconds = self._ask(worker, task, 0, self._to_try[number])
                score = self.cells.correlation(task, predicted)
                trial = {"settings": self._to_try[number], "PDCorr": score, "seconds": seconds}
                _replace(
                    self.folder / f"trial_{number}.json", lambda file, made=trial: file.write_text(json.dumps(made))
                )
        for seed in range(seeds):
            if not self.predicted(seed).exists():
                with step(f"{self.peer.name}, {self.fold.name}, seed {seed}"):
                    task = self.cells.task("test", seed)
                    predicted, _ = self._ask(worker, task, seed, self.peer.trials[self.best])
                    _replace(self.predicted(seed), predicted.write_h5ad)

    @property
    def _to_try(self) -> tuple[dict[str, Any], ...]:
        """Settings to choose among; none where there is no choice."""
        return self.peer.trials if len(self.peer.trials) > 1 else ()

    def _ask(self, worker: Worker, task: Task, seed: int, settings: dict[str, Any]) -> tuple[ad.AnnData, float]:
        """Return the cells that the peer predicts, and the seconds that it took."""
        with tempfile.TemporaryDirectory() as scratch:
            cells, out = Path(scratch) / "cells.h5ad", Path(scratch) / "predicted.npy"
            task.cells.write_h5ad(cells)
            asked = {"wanted": task.wanted.to_dict("list"), "seed": seed, "settings": settings}
            answer = worker.ask("predict", timeout=LONGEST, peer=self.peer.file, cells=cells, out=out, **asked)
            return task.prediction(np.load(out)), answer["seconds"]


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    partial = file.with_name(f"partial{file.suffix}")
    write(partial)
    os.replace(partial, file)
