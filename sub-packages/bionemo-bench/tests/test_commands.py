"""The command ``bionemo-bench``: its help, and one sentence for a mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bionemo.bench.cli import app
from bionemo.screens.errors import InputError

STORED = Path(__file__).parents[3] / "benchmarks/results/throughput-cpu.json"


def run(*arguments: object, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, after some code."""
    code += "from bionemo.bench.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


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
    ran = run(*arguments, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("command", ["scoring", "kernels", "serving --checkpoint run --controls screen.h5ad"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(command, tmp_path):
    (tmp_path / "file").touch()
    ran = run(*command.split(), "--out", tmp_path / "file" / "result.json")
    assert ran.returncode == 2
    assert "file cannot be written" in ran.stderr
    assert not ran.stdout
    ran = run(*command.split(), "--out", tmp_path)
    assert "is a directory: name a file in it" in ran.stderr


def test_a_result_is_whole_or_the_old_one(tmp_path):
    """No file may grow beyond what half of the report needs."""
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({STORED.stat().st_size // 2},) * 2); "
    )
    out = tmp_path / "out"
    assert CliRunner().invoke(app, ["throughput", "--read", str(STORED), "--out", str(out)]).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    ran = run("throughput", "--read", STORED, "--out", out, code=limit)
    assert ran.returncode == 2
    assert "out cannot be written (File too large)" in ran.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: json.dumps({**json.loads(text), "machine": []}),
        lambda text: json.dumps({**json.loads(text), "arms": [{"task": "training", "runs": "\ud800"}]}),
        lambda text: "[" * 200_000,
    ],
)
def test_a_result_that_was_edited_is_refused(edit, tmp_path):
    (tmp_path / "edited.json").write_text(edit(STORED.read_text()))
    words = ["throughput", "--read", tmp_path / "edited.json", "--out", tmp_path / "out"]
    with pytest.raises(InputError, match=r"edited\.json is no"):
        CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_what_a_result_says_cannot_drive_a_terminal(tmp_path):
    edited = json.loads(STORED.read_text())
    edited["started"] = "\x1b[2J1970-01-01"
    (tmp_path / "edited.json").write_text(json.dumps(edited))
    words = ["throughput", "--read", tmp_path / "edited.json", "--out", tmp_path / "out"]
    ran = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert ran.exit_code == 0
    assert r"\x1b[2J1970" in ran.stdout
