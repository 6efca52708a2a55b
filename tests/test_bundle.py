"""A bundle is installed where there is no network, and is refused where a part of it is damaged."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
BUNDLE = ROOT / "recipes" / "bundle" / "bundle.sh"
PACKAGES = ("bionemo-screens", "bionemo-perteval")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Collect the evaluation, the smallest that has a command, in parts of 50 MiB."""
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    settings = {**os.environ, "PYTHON": sys.executable, "PART": "50M"}
    done = subprocess.run([BUNDLE, out, *PACKAGES], env=settings, capture_output=True, text=True)
    if done.returncode and "No matching distribution found" in done.stderr:
        pytest.skip(f"pip finds no index here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_a_build_of_torch_that_its_index_lacks_is_refused_in_a_sentence(tmp_path):
    """PyTorch made no build of the pinned torch for CUDA 10; where there is no network the index cannot be asked."""
    settings = {**os.environ, "PYTHON": sys.executable, "CUDA": "cu102"}
    done = subprocess.run([BUNDLE, tmp_path / "bundle"], env=settings, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: https://download.pytorch.org/whl/cu102 cannot be reached, or has no torch ")
    assert not list(tmp_path.iterdir())


def install(bundle: Path, venv: Path, python: str = sys.executable) -> subprocess.CompletedProcess:
    """Install it as a user without settings of pip's, in a namespace that has no network."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("only root can take the network away, by unshare")
    alone = {"PATH": "/usr/bin:/bin", "HOME": str(venv.parent), "PYTHON": python}
    return subprocess.run(
        ["unshare", "--net", "bash", bundle / "install.sh", venv], env=alone, capture_output=True, text=True
    )


def test_it_comes_in_parts_of_the_size_that_was_asked_for(bundle):
    *full, last = sorted(bundle.glob("wheels.tar.*"))
    assert full
    assert {part.stat().st_size for part in full} == {50 << 20}
    assert last.stat().st_size <= 50 << 20


def test_it_is_installed_without_a_network_and_runs(bundle, tmp_path):
    done = install(bundle, tmp_path / "environment")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in tmp_path.iterdir()] == ["environment"]
    programs = tmp_path / "environment" / "bin"
    script = "import bionemo.perteval, bionemo.screens, sys; print(sys.modules['bionemo.screens'].__file__)"
    shown = subprocess.run([programs / "python", "-c", script], env={}, capture_output=True, text=True)
    assert Path(shown.stdout.strip()).is_relative_to(tmp_path), shown.stderr[-2000:]
    shown = subprocess.run([programs / "perteval", "evaluate", "--help"], env={}, capture_output=True, text=True)
    assert "--observed" in shown.stdout, shown.stderr[-2000:]


def test_a_damaged_part_is_named_and_nothing_is_installed(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    part = copy / "wheels.tar.001"
    with part.open("r+b") as file:
        file.write(b"damage")
    done = install(copy, tmp_path / "environment")
    assert done.returncode == 2
    assert part.name in done.stderr
    assert "copy it here again" in done.stderr
    assert not list(tmp_path.glob("environment*"))


def test_another_python_is_refused_by_its_version(bundle, tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.9 on x86_64\n")
    other.chmod(0o755)
    done = install(bundle, tmp_path / "environment", str(other))
    assert done.returncode == 2
    assert "is 3.9 on x86_64: name another with PYTHON" in done.stderr
    assert not (tmp_path / "environment").exists()
