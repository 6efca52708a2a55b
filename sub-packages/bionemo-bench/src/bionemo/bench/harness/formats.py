"""Keep the screen in the layouts that arms read; each is made once, and timed."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bionemo import cellsets
from bionemo.bench.harness import page_cache
from bionemo.bench.harness.environments import Environment
from bionemo.bench.harness.report import write_json
from bionemo.bench.harness.screen import FACTS_FILE, TARGET_SUM, ScreenSize, write_facts, write_screen
from bionemo.bench.harness.worker import DRIVERS, Bench

OWN = Environment(name="own")


@dataclass(frozen=True, kw_only=True)
class Format:
    """A `Format` is a layout of the screen on disk, in a folder of its name."""

    driver: str
    """The script that converts."""
    environment: Environment = OWN
    source: str = "sorted"
    """The format that it is made of; "screen" is the file in random order."""


FORMATS = {
    "store": Format(driver="read_store", source="screen"),
    "sorted": Format(driver="read_h5ad", source="screen"),
    "plain": Format(driver="write_dense", source="screen"),
    "dense": Format(driver="write_dense"),
}
"""`plain` and `dense` are STATE's, of the screen as it is and of the sorted one."""


class Formats:
    """A `Formats` is the folder of one screen, with a folder in it for each format.

    Parameters
    ----------
    bench : Bench
        Starts the drivers that convert.
    folder : Path
        The folder.
    size : ScreenSize
        The size of the screen.
    again : bool
        Make formats anew that are there.
    progress : bool
        Show a progress bar while the screen is written.
    known : mapping
        Name -> format.

    Attributes
    ----------
    made : dict
        What was found of each format that was asked for.
    """

    def __init__(
        self,
        bench: Bench,
        folder: Path,
        size: ScreenSize,
        *,
        again: bool,
        progress: bool,
        known: Mapping[str, Format] = FORMATS,
    ):
        self._known = known
        self._bench, self._folder, self._size = bench, folder, size
        self._again, self._progress = again, progress
        self.made: dict[str, dict[str, Any]] = {}

    def folder_of(self, name: str) -> Path:
        """Return where a format lies; "screen" is the file in random order."""
        return self._folder / name

    def data_of(self, name: str) -> list[Path]:
        """Return the files and folders that a reader of a format reads."""
        return sorted(self.folder_of(name).glob("data*"))

    def make_screen(self) -> None:
        """Write the screen, if it is not there."""
        if (self.folder_of("screen") / FACTS_FILE).is_file():
            return
        partial = self._partial("screen")
        write_screen(partial, self._size, progress=self._progress)
        write_facts(partial, self._size)
        partial.rename(self.folder_of("screen"))

    def make(self, name: str) -> None:
        """Convert the screen to a format, if that was not done by the same code with the same packages.

        Raises
        ------
        ArmError
            If the format's environment or its conversion fails.
        """
        if name in self.made:
            return
        wanted, target = self._known[name], self.folder_of(name)
        record = self._folder / f"{name}.json"
        made_with = self._made_with(name)
        if self._again or not target.exists() or _read(record).get("made_with") != made_with:
            record.unlink(missing_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            partial = self._partial(name)
            with self._bench.start(wanted.driver, wanted.environment) as worker:
                source = self.folder_of(wanted.source)
                found = worker.ask("convert", source=source, target=partial, options={"target_sum": TARGET_SUM})
                found["versions"] = worker.ask("versions")
            partial.rename(target)
            found |= {"source": wanted.source, "bytes": sum(map(page_cache.size_of, self.data_of(name)))}
            write_json(found | {"made_with": made_with}, record)
        self.made[name] = _read(record)

    def _made_with(self, name: str) -> str:
        """Return a hash of what decides a format: its converter, its packages or our code, and what it is made of."""
        made = self._known[name]
        code = [DRIVERS / f"{made.driver}.py", DRIVERS / "driver_protocol.py", Path(__file__).with_name("screen.py")]
        if made.environment.is_own:
            code += sorted(Path(cellsets.__file__).parent.rglob("*.py"))
        source = self._made_with(made.source) if made.source in self._known else ""
        parts = [made.environment.requirements, TARGET_SUM, source, *(path.read_text("utf-8") for path in code)]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _partial(self, name: str) -> Path:
        partial = self._folder / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial


def _read(record: Path) -> dict[str, Any]:
    return json.loads(record.read_text()) if record.is_file() else {}
