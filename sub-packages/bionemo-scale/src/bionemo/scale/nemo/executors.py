"""Executors say where a task of nemo-run runs: in a process of its own, or under torchrun on this machine.

A Slurm job has one way only: ``recipes/slurm/submit.sh`` queues a command of ``nemo scale`` as it does any other.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fiddle as fdl
import nemo_run as run
from nemo_run.cli.cli_parser import CLIException, parse_cli_args

from bionemo.screens.errors import InputError, choices


def _environment() -> dict[str, str]:
    """Put the programs of this environment first: torchrun is one of them."""
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


@run.cli.factory
def local() -> run.Config[run.LocalExecutor]:
    """Run one process on this machine, beside the command that starts it."""
    return run.Config(run.LocalExecutor, env_vars=_environment())


@run.cli.factory
def torchrun() -> run.Config[run.LocalExecutor]:
    """Run ``ntasks_per_node`` processes on this machine."""
    return run.Config(run.LocalExecutor, launcher="torchrun", ntasks_per_node=1, env_vars=_environment())


EXECUTORS = {executor.__name__: executor for executor in (local, torchrun)}


def configured_executor(name: str, settings: Sequence[str]) -> run.Executor:
    """Build an executor of a name in ``EXECUTORS``, with ``key=value`` of its fields.

    An InputError says that there is no such executor or setting, or that a value is of the wrong type.
    """
    if name == "slurm":
        raise InputError("executor=slurm is not an executor here: queue the command with recipes/slurm/submit.sh.")
    if name not in EXECUTORS:
        raise InputError(f"no executor {name!r}: {choices(name, EXECUTORS)}.")
    config: Any = EXECUTORS[name]()
    fields = {field.name for field in fdl.get_callable(config).__dataclass_fields__.values() if field.init}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"'executor.{setting}' is not of the form executor.key=value.")
        if key.split(".")[0] not in fields:
            raise InputError(f"executor {name} has no setting {key!r}: {choices(key, fields)}.")
        try:
            parse_cli_args(config, [setting])
        except (CLIException, ValueError, TypeError):
            raise InputError(f"executor.{key} does not take {value!r}.") from None
    executor: Any = fdl.build(config)
    return executor
