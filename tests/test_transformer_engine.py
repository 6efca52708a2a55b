"""Transformer Engine's layers, beside a stand-in: what breaks in the wiring breaks here, and not on a GPU.

No number here is Transformer Engine's. `make test-gpu` asks the real one.
"""

import ast
import importlib
import inspect
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
CHECKS = Path(__file__).with_name("transformer_engine_checks.py")
# Where the release has what the stand-in has.
SOURCES = {
    "Linear": "pytorch/module/linear.py",
    "RMSNorm": "pytorch/module/rmsnorm.py",
    "fp8_autocast": "pytorch/quantization.py",
    "DelayedScaling": "common/recipe/__init__.py",
    "Float8CurrentScaling": "common/recipe/__init__.py",
    "MXFP8BlockScaling": "common/recipe/__init__.py",
}


@pytest.mark.parametrize(("check", "ranks"), [("same_loss", 1), ("checkpoints", 1), ("fp8", 1), ("two_ranks", 2)])
def test_the_wiring(environment, check, ranks):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    done = subprocess.run([sys.executable, *launcher, CHECKS, check], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> zipfile.ZipFile:
    """The release that the stand-in stands for: its wheel is Python alone."""
    stand_in = _stand_in()
    folder = tmp_path_factory.mktemp("wheel")
    wanted = f"transformer-engine=={stand_in.VERSION}"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, wanted],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"{wanted} cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


def _stand_in():
    known = set(sys.modules)
    module = importlib.import_module("transformer_engine_stand_in")
    for name in set(sys.modules) - known:
        if name.partition(".")[0] == "transformer_engine":
            del sys.modules[name]  # Megatron in this process is to find none
    return module


@pytest.mark.parametrize("name", SOURCES)
def test_the_stand_in_has_the_signatures_of_the_release(release, name):
    source = ast.parse(release.read(f"transformer_engine/{SOURCES[name]}"))
    (there,) = (node for node in source.body if getattr(node, "name", None) == name)
    here = getattr(_stand_in(), name)
    if isinstance(there, ast.FunctionDef):
        assert _parameters(here) == _named(there)
        return
    methods = {node.name: node for node in there.body if isinstance(node, ast.FunctionDef)}
    if name in ("Linear", "RMSNorm"):
        for method in {"__init__", "forward"} & set(methods) & set(vars(here)):
            assert _parameters(getattr(here, method)) == _named(methods[method])
    else:
        fields = {node.target.id for node in there.body if isinstance(node, ast.AnnAssign)}
        assert set(here.__dataclass_fields__) <= fields


def _parameters(function) -> list[str]:
    return list(inspect.signature(inspect.unwrap(function)).parameters)


def _named(function: ast.FunctionDef) -> list[str]:
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return names + ([given.kwarg.arg] if given.kwarg else [])
