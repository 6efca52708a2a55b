"""Register what `nemo scale ...` finds: the entry points of group ``nemo_run.cli``.

``nemo scale pretrain --factory scale_tiny store=... split=... out=... --yes``
"""

import logging
from collections.abc import Callable
from typing import Any

import nemo_run as run
from nemo_run.cli.api import RunContext
from torchx.specs import AppState

from bionemo.scale.ending import said_when_it_ends
from bionemo.scale.errors import Stopped
from bionemo.scale.nemo.executors import configured_executor
from bionemo.scale.nemo.job import in_job
from bionemo.scale.nemo.recipes import TASKS, configured
from bionemo.scale.quiet import hush
from bionemo.screens.errors import InputError, choices


class OneSentence(RunContext):
    """`OneSentence` is nemo-run's context, with executors by name and our own end of a command.

    A user's mistake is one sentence and exit code 2; a job that failed is exit code 1, which nemo-run leaves at 0.
    """

    def cli_execute(self, fn: Callable, args: list[str], *rest, **options) -> None:
        """Parse ``args`` and run ``fn``."""
        hush()
        # It logs, at length, what it raises.
        logging.getLogger("nemo_run.cli.cli_parser").setLevel(logging.CRITICAL)
        with said_when_it_ends():
            # `executor=...` is nemo-run's `run.executor=...`.
            args = [f"run.{arg}" if arg.split("=")[0].split(".")[0] == "executor" else arg for arg in args]
            super().cli_execute(fn, args, *rest, **options)

    def parse_args(self, args: list[str], lazy: bool = False) -> list[str]:
        """Take the executor out of the arguments for nemo-run itself."""
        names = [arg.partition("=")[2] for arg in args if arg.startswith("executor=")]
        settings = [arg.removeprefix("executor.") for arg in args if arg.startswith("executor.")]
        rest = [arg for arg in args if not arg.startswith(("executor=", "executor."))]
        if settings and not names:
            raise InputError(f"executor.{settings[0]} is given and no executor: add executor=torchrun.")
        chosen = configured_executor(names[-1], settings) if names else None
        left = super().parse_args(rest, lazy)
        self.executor = chosen
        return left

    def parse_fn(self, fn: Any, args: list[str], **default_kwargs) -> Any:
        """Apply ``key=value`` to the factory that was named."""
        recipes = TASKS[fn]
        if self.yaml:
            if args:
                raise InputError(f"--yaml says every setting, and {args[0]!r} is given beside it: change the file.")
            return super().parse_fn(fn, args, **default_kwargs)
        if not self.factory:
            raise InputError(f"no --factory is given: choose one of {', '.join(recipes)}.")
        if self.factory not in recipes:
            raise InputError(f"no factory {self.factory!r}: {choices(self.factory, recipes)}.")
        task = configured(fn, recipes[self.factory], args)
        if self.executor is not None:
            _spread(task, self.executor, given={arg.partition("=")[0] for arg in args})
        return task

    def _execute_task(self, fn: Callable, task_args: list[str]) -> None:
        """Show the task; with an executor, start the processes it becomes."""
        if self.executor is None or any((self.to_yaml, self.to_toml, self.to_json, self.repl)):
            super()._execute_task(fn, task_args)
            return
        task = self.parse_fn(fn, task_args)
        run.dryrun_fn(task, executor=self.executor)
        if self.dryrun or not self._should_continue(self.skip_confirmation):
            return
        with run.Experiment(self.name, executor=self.executor, log_level="WARN") as experiment:
            experiment.add(run.Partial(in_job, task=task), name=self.name, tail_logs=True)
            experiment.run(detach=self.detach, tail_logs=True)
        # Leaving the block has waited for a job that was not detached.
        failed = [job for job in experiment.jobs if job.state in (AppState.FAILED, AppState.CANCELLED)]
        if failed:
            raise Stopped(f"{failed[0].id} did not end well: its output is above, or in {failed[0].executor.job_dir}.")


def _spread(task: Any, executor: Any, given: set[str]) -> None:
    """Let a task use the processes that its executor starts."""
    if isinstance(executor, run.LocalExecutor) and executor.launcher is None:
        return  # one process, which starts the others itself
    counts = {"compute.devices": executor.nproc_per_node(), "compute.nodes": executor.nnodes()}
    for key, count in counts.items():
        field = key.removeprefix("compute.")
        if key in given and getattr(task.compute, field) != count:
            raise InputError(
                f"{key}={getattr(task.compute, field)} and the executor's {count} contradict each other: leave {key} "
                f"out."
            )
        setattr(task.compute, field, count)


for _task in TASKS:
    run.cli.entrypoint(namespace="scale", run_ctx_cls=OneSentence)(_task)
