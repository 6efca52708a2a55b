"""The proof on a GPU: its steps run on a CPU with tiny sizes, and one that fails or takes too long stops no other."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "recipes" / "gpu_proof" / "prove.py"


@pytest.fixture
def prove(monkeypatch):
    spec = importlib.util.spec_from_file_location("prove", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "prove", module)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_a_step_that_fails_or_takes_too_long_stops_no_other(prove, tmp_path, capsys):
    proof = prove.Proof(tmp_path, "cpu", True)

    def fails(found):
        proof.call(sys.executable, "-c", "import sys; print('words', file=sys.stderr); sys.exit(3)")

    def breaks(found):
        raise KeyError("value")

    def takes_long(found):
        proof.call("sleep", 60)

    def works(found):
        found["said"] = proof.call("echo", "well").strip()

    proof.run([(fails, 20.0), (breaks, 20.0), (takes_long, 1.0), (works, 20.0)])
    kept = json.loads((tmp_path / "proof.json").read_text())["steps"]
    assert {name: step["ended"] for name, step in kept.items()} == {
        "fails": "failed",
        "breaks": "failed",
        "takes_long": "out of time",
        "works": "ok",
    }
    assert kept["fails"]["words"] == "exit code 3: words"
    assert kept["takes_long"]["seconds"] < 20
    assert kept["works"] == json.loads((tmp_path / "works.json").read_text())
    assert "said: well" in (tmp_path / "proof.md").read_text()
    assert "said: well" in capsys.readouterr().out


@pytest.mark.slow
def test_every_step_works_on_a_cpu(tmp_path):
    words = [SCRIPT, "--out", tmp_path / "proof", "--device", "cpu", "--tiny"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    kept = json.loads((tmp_path / "proof" / "proof.json").read_text())
    assert len(kept["steps"]) == 10
    assert kept["versions"]["torch"]
    assert kept["commit"] is None or len(kept["commit"]) >= 12
    assert kept["steps"]["resume"]["found"]["code"] == 143
