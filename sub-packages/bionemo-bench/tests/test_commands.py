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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["loader", "--repeats", "2"], "repeats is 2"),
        (["scoring", "--against", "cell-eval3"], "--against is 'cell-eval3', but it can be cell-eval or cell-eval2"),
    ],
)
def test_a_mistake_ends_with_one_sentence(arguments, said, tmp_path):
    arguments = [*arguments, "--out", tmp_path / "out", "--cache", tmp_path / "cache"]
    code = "from bionemo.bench.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
