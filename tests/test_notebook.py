"""The notebook of the guide runs from its first cell to its last, and is short."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "guide" / "from_python.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_from_the_first_import_to_a_plotted_report_it_takes_fewer_than_40_lines(notebook):
    lines = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert len([line for line in lines if line.strip()]) < 40


def test_what_it_shows_was_made_by_its_cells_and_names_no_machine(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "data:image/svg+xml" in str(code[-1].outputs)
    assert "/tmp/" not in str(code)


def test_its_cells_run(notebook, tmp_path):
    fresh = nbformat.from_dict(notebook)
    NotebookClient(fresh, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    table = next(cell for cell in fresh.cells if "evaluation.table" in cell.source).outputs[0]["data"]["text/plain"]
    assert "prediction" in table
