"""Executors say where a task of nemo-run runs: in a process of its own, under torchrun, or as a Slurm job.

``executor=torchrun executor.ntasks_per_node=2``, or ``executor=slurm`` with ``executor.account``,
``executor.partition``, ``executor.container_image`` and ``executor.container_mounts``.
"""

import ast
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fiddle as fdl
import nemo_run as run
from nemo_run.cli.cli_parser import CLIException, parse_cli_args

from bionemo.scale.config.overrides import nearest
from bionemo.screens.errors import InputError

_REQUEUE = """trap '[ $? -eq 143 ] && scontrol requeue "$SLURM_JOB_ID"' EXIT"""


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


@run.cli.factory
def slurm() -> run.Config[run.SlurmExecutor]:
    """A Slurm job in a container, submitted from a machine that has ``sbatch``: a task for each GPU, whole nodes.

    It is told 120 seconds before its time is up, saves, ends with 143, and is put back in the queue to go on. After any
    other end it stays ended.
    """
    return run.Config(
        run.SlurmExecutor,
        account="",
        partition="",
        container_image="",
        container_mounts=[],
        nodes=1,
        ntasks_per_node=8,
        gpus_per_node=8,
        time="04:00:00",
        mem="0",
        exclusive=True,
        signal="TERM@120",
        srun_args=["--mpi=pmix"],
        # nemo-run's own retries would repeat a job that a mistake has ended.
        retries=0,
        setup_lines=_REQUEUE,
        env_vars={"MASTER_ADDR": "$head_node_ip", "MASTER_PORT": "$((20000 + SLURM_JOB_ID % 20000))"},
        tunnel=run.Config(run.LocalTunnel, job_dir=""),
        packager=run.Config(run.Packager),
    )


EXECUTORS = {executor.__name__: executor for executor in (local, torchrun, slurm)}
_NEEDED = {
    "account": "the account to be charged",
    "partition": "the partition to run in",
    "container_image": "a .sqsh file, or a name such as nvcr.io#nvidia/clara/bionemo-framework:2.7",
    "container_mounts": "the folders of data and runs, as [/data:/data,/runs:/runs]",
}


def configured_executor(name: str, settings: Sequence[str]) -> run.Executor:
    """Build an executor.

    Parameters
    ----------
    name
        A name of ``EXECUTORS``.
    settings
        ``key=value`` of its fields.

    Raises
    ------
    InputError
        No such executor or setting, a value of the wrong type, or a Slurm job without account, partition, image or
        mounts.
    """
    if name not in EXECUTORS:
        raise InputError(f"no executor {name!r}{nearest(name, EXECUTORS)}; there are {', '.join(EXECUTORS)}.")
    config: Any = EXECUTORS[name]()
    kind = fdl.get_callable(config)
    fields = {field.name for field in kind.__dataclass_fields__.values() if field.init}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"'executor.{setting}' is not of the form executor.key=value.")
        if key.split(".")[0] not in fields:
            raise InputError(f"executor {name} has no setting {key!r}{nearest(key, fields)}.")
        try:
            if key == "container_mounts":
                config.container_mounts = _list(value)
            elif key in _NEEDED:
                setattr(config, key, value)
            else:
                parse_cli_args(config, [setting])
        except (CLIException, ValueError, TypeError, SyntaxError):
            raise InputError(f"executor.{key} does not take {value!r}.") from None
    executor: Any = fdl.build(config)
    if isinstance(executor, run.SlurmExecutor):
        for key, what in _NEEDED.items():
            if not getattr(executor, key):
                raise InputError(f"executor.{key} is not given, and a Slurm job needs it: name {what}.")
        for mount in executor.container_mounts:
            if not 2 <= len(mount.split(":")) <= 3:
                raise InputError(f"executor.container_mounts has {mount!r}, which is not of the form /here:/there.")
    return executor


def check_places(executor: run.Executor, places: dict[str, str]) -> None:
    """Raise an InputError where a Slurm job would not find a path.

    Parameters
    ----------
    executor
        Of any kind.
    places
        Argument of the task -> the path that it names.
    """
    if not isinstance(executor, run.SlurmExecutor):
        return
    image = Path(executor.container_image or "")
    if (image.is_absolute() or image.suffix == ".sqsh") and not image.exists():
        raise InputError(f"executor.container_image={image} is not there: check the path, or name an image by its URL.")
    targets = [Path(mount.split(":")[1]) for mount in executor.container_mounts]
    for mount in executor.container_mounts:
        if not Path(mount.split(":")[0]).exists():
            raise InputError(f"executor.container_mounts has {mount!r}, and {mount.split(':')[0]} is not there.")
    for argument, place in places.items():
        if not any(Path(place).is_relative_to(target) for target in targets):
            raise InputError(
                f"{argument}={place} is in none of the folders that the container sees "
                f"({', '.join(map(str, targets))}): give the path it has there, or add its folder to "
                f"executor.container_mounts."
            )


def _list(text: str) -> list[str]:
    """Read a list of strings, with or without their quotation marks."""
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError("not a list")
    if "'" in text or '"' in text:
        return [str(item) for item in ast.literal_eval(text)]
    return [item.strip() for item in text[1:-1].split(",") if item.strip()]
