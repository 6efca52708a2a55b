"""The model with a newer Megatron-Core than NeMo 2 trains with, and how little of the rest rests on NeMo."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCALE = ROOT / "sub-packages" / "bionemo-scale"
NEWEST = "0.19.2"
# What names none of NeMo and is tested without a trainer.
TESTS = ("flow", "model", "condition_encoder", "heads", "token_table", "recompute")
# What another trainer would have to answer: docs/reference/architecture.md says how.
TOUCHES_NEMO = {
    "training/callbacks/checkpoints.py",
    "training/callbacks/progress.py",
    "training/checkpoint_io.py",
    "training/cpu.py",
    "training/data_module.py",
    "training/fit.py",
    "training/module.py",
    "training/setup.py",
    "training/strategy.py",
}


@pytest.mark.slow
def test_the_model_passes_its_tests_with_the_newest_megatron(environment, tmp_path):
    wanted = f"megatron-core=={NEWEST}"
    # It asks for Python 3.12; what the model takes of it runs on 3.11 as well.
    for_python = ("--python-version", "3.12", "--only-binary", ":all:", "--no-deps")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", *for_python, "--dest", tmp_path, wanted],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"{wanted} cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "newest")
    path = os.pathsep.join((str(tmp_path / "newest"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")))
    files = [SCALE / "tests" / f"test_{name}.py" for name in TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "triton_by_name", "-p", "no:cacheprovider", *files],
        env={**environment, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_few_modules_rest_on_nemo():
    source = SCALE / "src" / "bionemo" / "scale"
    found = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if "nemo" in _imported(ast.parse(path.read_text()))
    }
    assert found == TOUCHES_NEMO


def _imported(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names
