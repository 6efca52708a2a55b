"""Show a progress bar on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bionemo.screens.printable import printable


@contextmanager
def bar(shown: bool, total: int) -> Iterator[Callable[[str], None]]:
    """Give a function to call with the name of each step as it begins, once more than the `total` of steps."""
    if not shown:
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[step]}", markup=False),
        console=Console(file=sys.stderr),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task = progress.add_task("", total=total, step="")
    begun = 0

    def begin(step: str) -> None:
        nonlocal begun
        progress.update(task, completed=begun, step=printable(step), refresh=True)
        begun += 1

    with progress:
        yield begin
