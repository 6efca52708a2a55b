"""Start the ranks of a training, and end with a sentence where one of them is gone."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from bionemo.scale.ending import end_now
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.training.failures import lost_rank

GRACE = 10.0
"""Seconds that a rank has to notice by itself, in its next exchange with the others, that one of them is gone."""


class Launcher(_SubprocessScriptLauncher):
    """The `Launcher` is Lightning's, but for its watch over the ranks, which kills the first one without a word.

    A rank that waits in a library for one that is gone may wait for half an hour. So each rank looks at those that it
    has started, or at the process that has started it, and ends where one of them has; under Slurm, Slurm does. A
    process that trains twice does so with the same ranks.
    """

    _now: "Launcher | None" = None
    """The last one of this process."""

    def __init__(self, run: RunDirectory, *args: Any):
        super().__init__(*args)
        self._run = run

    def launch(self, function: Callable, *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other ranks, unless that was done from outside, and call the function in this one."""
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        before, Launcher._now = Launcher._now, self
        if before is not None or isinstance(environment, SLURMEnvironment):
            return function(*args, **kwargs)
        parent, external = os.getppid(), environment.creates_processes_externally
        if not external:
            self._call_children_scripts()

        def lost() -> bool:
            return os.getppid() != parent if external else any([process.poll() for process in self.procs])

        threading.Thread(target=self._watch, args=(lost,), daemon=True, name="ranks").start()
        return function(*args, **kwargs)

    def _watch(self, lost: Callable[[], bool]) -> None:
        while not lost():
            time.sleep(0.5)
        time.sleep(GRACE)
        for process in self.procs:
            process.kill()
        assert Launcher._now is not None
        end_now(lost_rank(Launcher._now._run))
