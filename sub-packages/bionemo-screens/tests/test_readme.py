"""The README's example runs, and the package is light to import."""

import re
import subprocess
import sys
from pathlib import Path

import anndata as ad


def test_the_readmes_example_runs(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "test train\n[('DMSO_TF', 0.0, 'uM')]\n"
    assert ad.read_h5ad("screen.h5ad").shape == (2000, 200)


def test_the_package_is_imported_without_what_reads_files():
    program = "import sys, bionemo.screens; print({'pandas', 'anndata', 'scipy', 'h5py', 'zarr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
