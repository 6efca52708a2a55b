"""The README's code and commands, one after the other in an empty folder."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_what_the_readme_shows_runs(tmp_path):
    blocks = re.findall(r"```(python|bash)\n(.*?)```", README.read_text(), re.DOTALL)
    assert [language for language, _ in blocks] == ["bash", "python", "bash", "bash", "python"]
    assert blocks[0][1].startswith("pip install")
    for language, text in blocks[1:]:
        text = text.replace("perteval evaluate", f"{sys.executable} -m bionemo.perteval.cli evaluate --no-progress")
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euc", text]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "report.html").is_file()
    assert "theirs" in (tmp_path / "several" / "comparisons.csv").read_text()
