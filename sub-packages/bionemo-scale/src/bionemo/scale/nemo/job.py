"""Run a task in a process that nemo-run starts, so that it ends as our own commands end."""

import sys
from collections.abc import Callable

from bionemo.scale.errors import Stopped
from bionemo.scale.quiet import hush
from bionemo.screens.errors import InputError


def in_job(task: Callable[[], None]) -> None:
    """Run a task; what a user can mend, or a stop, is a sentence and an exit code that Slurm's requeue can read."""
    hush()
    try:
        task()
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except Stopped as stopped:
        print(f"stopped: {stopped}", file=sys.stderr)  # noqa: T201
        sys.exit(stopped.exit_code)
