"""The whole job as a user starts it: commands in processes of their own, on a small simulated screen."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import pretrain_arguments

SPLIT = """\
[training]
screen = "train"

[fewshot."screen.context_2"]
val = ["perturbation_1"]
test = ["perturbation_2", "perturbation_3"]
"""


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """One thread a process, and this environment's programs first."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture(scope="session")
def command(environment) -> Callable[..., subprocess.CompletedProcess]:
    """Run ``bionemo-scale`` with arguments; a failure shows what it printed."""

    def run(*arguments, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-m", "bionemo.scale.cli", *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, command) -> Path:
    """A folder with ``screen.h5ad``, its ``store`` and a ``split.toml``."""
    folder = tmp_path_factory.mktemp("workshop")
    command(
        *("simulate", folder / "screen.h5ad", "--cells", 1600, "--genes", 120),
        *("--contexts", 2, "--perturbations", 6, "--batches", 1),
    )
    (folder / "split.toml").write_text(SPLIT)
    command(
        *("prepare", folder / "screen.h5ad", "--store", folder / "store", "--perturbation-key", "perturbation"),
        *("--control", "control", "--context-key", "context", "--batch-key", "batch"),
    )
    return folder


@pytest.fixture(scope="session")
def pretrain(workshop, command) -> Callable[..., subprocess.CompletedProcess]:
    """Train on the workshop's store into a run directory, small and logging every step."""

    def run(out: Path, *overrides: str, code: int = 0) -> subprocess.CompletedProcess:
        return command(*pretrain_arguments(workshop, out, *overrides), code=code)

    return run
