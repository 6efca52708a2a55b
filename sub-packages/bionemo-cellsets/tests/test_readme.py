import re
from pathlib import Path


def test_the_readmes_example_runs(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    cells = [int(number) for number in re.findall(r"^\(8, 32, 200\) (\d+) cells", printed, flags=re.MULTILINE)]
    smallest, *_, largest = (float(number) for number in printed[1:].split(")")[0].split(","))
    assert 10 * smallest <= sum(cells) <= 10 * largest  # five perturbations in the two training contexts
