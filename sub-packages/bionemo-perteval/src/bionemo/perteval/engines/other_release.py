"""Score with the current release of cell-eval beside ours, in an environment of its own.

cell-eval 0.7 and later need a numpy that Megatron-LM cannot have, so it is installed apart, once, and driven as a child
process over JSON lines. It scores the same arms from the same cells, but tests them itself: it corrects for multiple
testing within each perturbation, not over all, and ranks genes by the absolute log fold change of pseudobulks with a
small constant added.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.perteval.inputs.screen import Population, Screen, cell_count
from bionemo.perteval.metrics.registry import METRICS
from bionemo.perteval.metrics.scores import over_repeats
from bionemo.perteval.populations.catalogue import draw, list_arms
from bionemo.perteval.populations.ceiling import SPLIT_HALVES, split_halves
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.progress import bar
from bionemo.screens.errors import InputError

RELEASE = "0.8.2"
"""Release of cell-eval."""

PINS = (
    f"cell-eval=={RELEASE}",
    "pdex==0.3.0",
    "anndata==0.12.19",
    "scanpy==1.11.5",
    "polars==2.1.0",
    "pandas==2.3.3",
    "numpy==2.4.6",
)
"""What its environment is made of; what these need is left to pip."""

_MAKE = ["-m", "venv"]
_LABEL = "perturbation"


def prepare(*, progress: bool = False) -> Path:
    """Make the environment where it is not there yet, and return its Python.

    It lies under ``$XDG_CACHE_HOME`` or ``~/.cache``, in bionemo-perteval, and may be deleted at any time.

    Raises
    ------
    InputError
        Where it cannot be made; the message has the last line of what pip said.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bionemo-perteval"
    folder = cache / f"cell-eval-{RELEASE}-python{sys.version_info.major}.{sys.version_info.minor}"
    done, python = folder / "complete", folder / "bin" / "python"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if done.is_file() and done.read_text() == "\n".join(PINS) and python.exists():
                return python
            with bar(progress, 1) as begin:
                begin(f"installing cell-eval {RELEASE}")
                shutil.rmtree(folder, ignore_errors=True)
                _run([sys.executable, *_MAKE, str(folder)])
                _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS])
            done.write_text("\n".join(PINS))
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        reason = next((line for line in reversed(said) if "error" in line.lower()), said[-1] if said else "no reason")
        raise InputError(
            f"cell-eval {RELEASE} cannot be installed into {folder} ({reason.strip()}); see to pip's package index, or "
            "leave --engine at 0.6."
        ) from error
    return python


def score_arms(screen: Screen, python: Path, *, main: bool, seed: int, threads: int, progress: bool) -> pd.DataFrame:
    """Score every arm in every context with the other release.

    Parameters
    ----------
    screen, main, seed
        As `scoring.score_arms` had them; the populations are drawn again, with the same outcome.
    python
        Result of `prepare`.
    threads
        How many threads its tests take.
    progress
        Whether to show a bar on stderr.

    Returns
    -------
    pd.DataFrame
        Columns: arm, context, perturbation and the metrics that it has; means over training seeds and splits.
    """
    arms = list_arms(screen, main=main)
    frames = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        _driver(python) as driver,
        bar(progress, len(screen.scored) * sum(arm.repeats for arm in arms.values())) as begin,
    ):
        folder = Path(scratch)
        estimates = Estimates(screen)
        for context, names in screen.scored.items():
            observed = {name: screen.cells(context, name) for name in names}
            _write(screen, context, observed, folder / "observed.h5ad")
            for arm, repeat in [(name, repeat) for name in arms for repeat in range(arms[name].repeats)]:
                begin(f"cell-eval {RELEASE}, {context}: {arm}")
                truth = folder / "observed.h5ad"
                if arm == SPLIT_HALVES:
                    halves = {name: split_halves(screen, context, name, seed + repeat) for name in names}
                    cells: dict[str, Population] = {name: first for name, (first, _) in halves.items()}
                    truth = folder / "half.h5ad"
                    _write(screen, context, {name: second for name, (_, second) in halves.items()}, truth)
                else:
                    cells = {
                        name: draw(screen, estimates, arm, context, name, seed=seed, repeat=repeat) for name in names
                    }
                _write(screen, context, cells, folder / "predicted.h5ad")
                task = {
                    "predicted": str(folder / "predicted.h5ad"),
                    "observed": str(truth),
                    "control": screen.control,
                    "label": _LABEL,
                    "metrics": [metric.source for metric in METRICS.values() if metric.source],
                    "threads": threads,
                }
                frames.append(_ask(driver, task).assign(arm=arm, context=context))
        begin("done")
    return over_repeats(pd.concat(frames, ignore_index=True), ["arm", "context", "perturbation"], screen.predictions)


def _write(screen: Screen, context: str, cells: Mapping[str, Population], path: Path) -> None:
    """Write control cells and populations as cell-eval reads them."""
    parts = [screen.control_cells(context), *map(sp.csr_matrix, cells.values())]
    labels = np.repeat([screen.control, *cells], [cell_count(part) for part in parts])
    obs = pd.DataFrame({_LABEL: labels}, index=pd.Index([str(i) for i in range(labels.size)]))
    matrix = sp.csr_matrix(sp.vstack(parts, format="csr"), dtype=np.float32)
    ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(screen.genes.astype(str)))).write_h5ad(path)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextlib.contextmanager
def _driver(python: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start the child process that has the other release; end it on leaving."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    with (
        resources.as_file(resources.files("bionemo.perteval.engines") / "driver.py") as script,
        subprocess.Popen(
            [str(python), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as child,
    ):
        try:
            yield child
        finally:
            child.terminate()


def _ask(driver: "subprocess.Popen[str]", task: dict[str, Any]) -> pd.DataFrame:
    """Give the child a task and return its scores. Columns: perturbation and metrics."""
    assert driver.stdin is not None
    assert driver.stdout is not None
    try:
        driver.stdin.write(json.dumps(task) + "\n")
        driver.stdin.flush()
        answer = json.loads(driver.stdout.readline() or '{"error": "it ended"}')
    except BrokenPipeError:
        answer = {"error": "it ended"}
    if "error" in answer:
        raise InputError(
            f"cell-eval {RELEASE} failed on these cells ({answer['error']}); leave --engine at 0.6 to score without it."
        )
    names = {metric.source: metric.name for metric in METRICS.values() if metric.source}
    frame = pd.DataFrame(answer["scores"]).rename(columns=names)
    return pd.DataFrame(frame[["perturbation", *(name for name in names.values() if name in frame)]])
