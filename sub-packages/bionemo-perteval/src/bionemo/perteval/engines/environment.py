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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.perteval.inputs.screen import Population, cell_count
from bionemo.perteval.progress import bar
from bionemo.screens.errors import InputError

_MAKE = ["-m", "venv"]
_PINS = ("pdex==0.3.0", "anndata==0.12.19", "scanpy==1.11.5", "polars==2.1.0", "pandas==2.3.3", "numpy==2.4.6")
"""What the environments are made of beside the package; what these need is left to pip."""

_MOST_THREADS = 16

Ask = Callable[[dict[str, Any]], Any]
"""Gives a child process a task and returns its answer."""

LABEL = "perturbation"
"""Column of obs in files that an environment reads."""


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
    """An `Environment` is a Python with one package that is not installed here, and a driver that answers tasks."""

    package: str
    release: str
    """Which release of the package is installed."""

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
                    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins)
                    for command in ((sys.executable, *_MAKE, str(folder)), (str(python), *install)):
                        subprocess.run(command, check=True, capture_output=True, text=True)
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
    def driver(self, *, progress: bool = False) -> Iterator[Ask]:
        """Start a child process that has the package, give what asks it, and end it on leaving.

        Asking raises an InputError where the package fails on the cells of a task; starting does as `prepare`.
        """
        script = Path(__file__).with_name(f"{self.package.replace('-', '_')}_driver.py")
        command = [str(self.prepare(progress=progress)), str(script)]
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=variables) as child:

            def ask(task: dict[str, Any]) -> Any:
                assert child.stdin is not None
                assert child.stdout is not None
                try:
                    child.stdin.write(json.dumps(task) + "\n")
                    child.stdin.flush()
                    said = json.loads(child.stdout.readline() or '{"error": "it ended"}')
                except BrokenPipeError:
                    said = {"error": "it ended"}
                if "error" in said:
                    raise InputError(
                        f"{self.name} failed on these cells ({said['error']}); leave it out of --engine to score "
                        "without it."
                    )
                return said["answer"]

            try:
                yield ask
            finally:
                child.terminate()


def write_cells(path: Path, genes: np.ndarray, groups: Mapping[str, Population]) -> None:
    """Write the cells of each label [n, G] as an h5ad file, float32, with the label in the column `LABEL` of obs."""
    labels = np.repeat(list(groups), [cell_count(cells) for cells in groups.values()])
    obs = pd.DataFrame({LABEL: labels}, index=pd.Index([str(i) for i in range(labels.size)]))
    matrix = sp.csr_matrix(sp.vstack(list(map(sp.csr_matrix, groups.values())), format="csr"), dtype=np.float32)
    ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(genes.astype(str)))).write_h5ad(path)
