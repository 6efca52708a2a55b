"""The command ``bionemo-bench``: its help, and one sentence for a mistake."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bionemo.bench.cli import app


@pytest.mark.parametrize("command", ["loader", "throughput", "scoring", "kernels", "atlas", "serving"])
def test_help_shows_an_example(command):
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"bionemo-bench {command}" in shown.stdout


def test_a_mistake_ends_with_one_sentence(tmp_path):
    arguments = ["loader", "--out", tmp_path / "out", "--cache", tmp_path / "cache", "--repeats", "2"]
    code = "from bionemo.bench.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode == 2
    assert "repeats is 2" in ran.stderr
    assert "Traceback" not in ran.stderr
