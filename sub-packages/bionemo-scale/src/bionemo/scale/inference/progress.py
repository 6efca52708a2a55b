"""Show how far a prediction is, how fast it goes and how long it will take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} cells/s")


@contextmanager
def shown(cells: int, show: bool) -> Iterator[Callable[[int], object]]:
    """Show a bar on the error stream, and yield what is told the number of cells as they are predicted."""
    count = TextColumn("{task.completed:,} of {task.total:,} cells")
    columns = TextColumn("predict"), BarColumn(), count, _Rate(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("predict", total=cells)
        yield lambda done: bar.advance(task, done)
