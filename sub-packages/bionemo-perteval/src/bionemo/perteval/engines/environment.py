"""Make an environment for another release of cell-eval, and drive it as a child process over JSON lines.

cell-eval 0.7 and later, and cell-eval2, need a numpy that Megatron-LM cannot have, so each is installed apart, once.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from bionemo.perteval.progress import bar
from bionemo.screens.errors import InputError

_MAKE = ["-m", "venv"]
_PINS = ("pdex==0.3.0", "anndata==0.12.19", "scanpy==1.11.5", "polars==2.1.0", "pandas==2.3.3", "numpy==2.4.6")
"""What the environments are made of beside the package; what these need is left to pip."""

_MOST_THREADS = 16


def thread_count(threads: int | None, jobs: int = 1) -> int:
    """Return the threads of each job: as many as given, else the cores of this process, divided among the jobs.

    Raises
    ------
    InputError
        Less than one is given.
    """
    if threads is None:
        return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)) // jobs))
    if threads < 1:
        raise InputError(f"threads is {threads}, but it takes at least 1.")
    return threads


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An `Environment` is a Python with one package that is not installed here."""

    package: str
    release: str
    """Which release of the package is installed."""
    script: str
    """File of `bionemo.perteval.engines` that answers tasks there."""

    @property
    def name(self) -> str:
        """Return what messages call it."""
        return f"{self.package} {self.release}"

    def prepare(self, *, progress: bool = False) -> Path:
        """Make the environment where it is not there yet, and return its Python.

        It lies under ``$XDG_CACHE_HOME`` or ``~/.cache``, in bionemo-perteval, and may be deleted at any time.

        Raises
        ------
        InputError
            Where it cannot be made; the message has the last line of what pip said.
        """
        pins = (f"{self.package}=={self.release}", *_PINS)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bionemo-perteval"
        folder = cache / f"{self.package}-{self.release}-python{sys.version_info.major}.{sys.version_info.minor}"
        done, python = folder / "complete", folder / "bin" / "python"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with (cache / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if done.is_file() and done.read_text() == "\n".join(pins) and python.exists():
                    return python
                with bar(progress, 1) as begin:
                    begin(f"installing {self.name}")
                    shutil.rmtree(folder, ignore_errors=True)
                    _run([sys.executable, *_MAKE, str(folder)])
                    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins])
                done.write_text("\n".join(pins))
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            reason = next(
                (line for line in reversed(said) if "error" in line.lower()), said[-1] if said else "no reason"
            )
            raise InputError(
                f"{self.name} cannot be installed into {folder} ({reason.strip()}); see to pip's package index, or "
                "leave it out of --engine."
            ) from error
        return python

    @contextlib.contextmanager
    def driver(self, python: Path) -> "Iterator[Driver]":
        """Start the child process that has the package, and end it on leaving."""
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        with (
            resources.as_file(resources.files("bionemo.perteval.engines") / self.script) as script,
            subprocess.Popen(
                [str(python), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
            ) as child,
        ):
            try:
                yield Driver(name=self.name, child=child)
            finally:
                child.terminate()


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A `Driver` is a running child process that answers one task a line."""

    name: str
    child: "subprocess.Popen[str]"

    def ask(self, task: dict[str, Any]) -> Any:
        """Give the child a task and return its answer.

        Raises
        ------
        InputError
            Where the package fails on these cells.
        """
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.write(json.dumps(task) + "\n")
            self.child.stdin.flush()
            said = json.loads(self.child.stdout.readline() or '{"error": "it ended"}')
        except BrokenPipeError:
            said = {"error": "it ended"}
        if "error" in said:
            raise InputError(
                f"{self.name} failed on these cells ({said['error']}); leave it out of --engine to score without it."
            )
        return said["answer"]


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
