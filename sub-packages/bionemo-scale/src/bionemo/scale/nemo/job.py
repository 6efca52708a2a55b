"""Run a task in a process that nemo-run starts, so that it ends as our own commands end."""

from collections.abc import Callable

from bionemo.scale.ending import said_when_it_ends
from bionemo.scale.quiet import hush


def in_job(task: Callable[[], None]) -> None:
    """Run a task; what a user can mend, or a stop, is a sentence and an exit code that Slurm's requeue can read."""
    hush()
    with said_when_it_ends():
        task()
