"""The files and the terminal table that come out."""

import base64
import errno
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest

from bionemo.perteval import METRICS, evaluate, render, warnings, write
from bionemo.perteval.report.page import html
from bionemo.screens import InputError


@pytest.fixture(scope="module")
def folder(evaluation, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "report"
    assert write(evaluation, out) == out / "report.html"
    return out


def test_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "calibration.csv", "comparisons.csv", "conditions.csv", "metrics.csv", "metrics.json", "per_perturbation.csv",
        "report.html", "strata.csv",
    ]  # fmt: skip


def test_json_is_strict_and_complete(folder, evaluation):
    def refuse(token):
        raise AssertionError(token)

    content = json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)
    assert list(content["arms"]) == list(evaluation.table.index)
    prediction = content["arms"]["prediction"]
    assert prediction["metrics"]["PDCorr"] == pytest.approx(evaluation.table.loc["prediction", "PDCorr"])
    assert set(prediction["per_context"]) == {"A", "B"}
    assert set(prediction["metrics"]) == set(METRICS)
    assert content["versions"]["cell-eval"].startswith("0.6")
    assert content["controls"] == "independent"
    assert content["shared"]["controls"] == "shared"
    shared = evaluation.shared.table.loc["prediction", "PDCorr"]
    assert content["shared"]["arms"]["prediction"]["metrics"]["PDCorr"] == pytest.approx(shared)
    assert content["settings"]["held_out"] == [["C", "p1"]]
    assert content["settings"]["prediction"]["input_kind"] == "counts"


def test_csv(folder, evaluation):
    long = pd.read_csv(folder / "metrics.csv")
    shared = long[(long["controls"] == "shared") & (long["metric"] == "MSE") & (long["subset"] == "all")]
    assert shared.set_index("arm")["value"].to_dict() == pytest.approx(evaluation.shared.table["MSE"].to_dict())
    long = long[long["controls"] == "independent"]
    table = long[long["subset"] == "all"].pivot(index="arm", columns="metric", values="value")
    pd.testing.assert_frame_equal(
        table.loc[evaluation.table.index, evaluation.table.columns], evaluation.table, check_names=False
    )
    row = long.query("subset == 'strong' and arm == 'prediction' and metric == 'MSE'").iloc[0]
    assert row.low <= row.value <= row.high
    assert row.value == pytest.approx(evaluation.strong.table.loc["prediction", "MSE"])
    compared = pd.read_csv(folder / "comparisons.csv", index_col=["controls", "first", "second", "metric"])
    for of in evaluation.kinds:
        pd.testing.assert_frame_equal(compared.loc[str(of.controls)], of.comparisons)
    assert len(pd.read_csv(folder / "per_perturbation.csv")) == 2 * len(evaluation.table) * 4


def test_missing_values_are_counted_and_not_written_as_numbers(evaluation, tmp_path):
    from dataclasses import replace

    frame = evaluation.per_perturbation.copy()
    frame.loc[(frame.arm == "prediction") & (frame.context == "B"), "LFCSpear"] = float("nan")
    other = replace(evaluation, per_perturbation=frame)
    assert other.missing.loc["prediction", "LFCSpear"] == 1
    in_a = frame[(frame.arm == "prediction") & (frame.context == "A")]["LFCSpear"].mean()
    assert other.table.loc["prediction", "LFCSpear"] == pytest.approx(in_a)
    write(other, tmp_path)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["arms"]["prediction"]["per_context"]["B"]["LFCSpear"] is None
    assert written["arms"]["prediction"]["without_value"]["LFCSpear"] == 1
    assert "no LFCSpear" in (tmp_path / "report.html").read_text()


def test_report_is_one_file_that_needs_no_network(folder, evaluation):
    addresses, links, ids, cells = [], [], set(), []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in {"link", "iframe", "object"}
            assert tag != "script" or not attrs  # the one that the page has in itself
            addresses.extend(value for name, value in attrs if name == "src")
            links.extend(value for name, value in attrs if name == "href")
            ids.update(value for name, value in attrs if name == "id")
            if tag == "img":
                assert dict(attrs)["alt"]

        def handle_data(self, data):
            cells.append(data.strip())

    text = (folder / "report.html").read_text()
    Reader().feed(text)
    # 3 of the first screen, 4 shifts, 1 bars, 3 volcanoes, 1 map, 3 of populations, 1 of components
    assert len(addresses) == 16
    assert all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    assert {link.removeprefix("#") for link in links} <= ids
    assert all(link.startswith("#") for link in links)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'\"" in text
    assert "url(" not in text
    assert f"{evaluation.table.loc['prediction', 'PDCorr']:.3f}" in cells
    for note in evaluation.notes:
        assert note.split(":")[0] in text


def test_both_releases_of_cell_eval_stand_on_the_page(evaluation):
    from dataclasses import replace

    shared = ["arm", "context", "perturbation", "PDCorr", "DEOver"]
    frame = evaluation.per_perturbation[shared].copy()
    frame["DEOver"] = 0.125
    versions = {**evaluation.versions, "other cell-eval": "9.9.9"}
    page = html(replace(evaluation, other_engine=frame, versions=versions))
    assert f"cell-eval {evaluation.versions['cell-eval']} / 9.9.9</caption>" in page
    assert f"<td>{evaluation.table.loc['prediction', 'DEOver']:.3f} / 0.125</td>" in page
    assert "9.9.9" not in html(evaluation)


def _changed(evaluation, metric, values):
    """The evaluation with other values of a metric of the prediction."""
    from dataclasses import replace

    frame = evaluation.per_perturbation.copy()
    frame.loc[frame.arm == "prediction", metric] = values
    return replace(evaluation, per_perturbation=frame)


def _of(evaluation, arm, metric):
    frame = evaluation.per_perturbation
    return frame.loc[frame.arm == arm, metric].to_numpy()


def test_a_passed_ceiling_is_a_warning(evaluation):
    above = _changed(evaluation, "PDCorr", _of(evaluation, "split halves", "PDCorr") + 0.05)
    said = "prediction passes the ceiling in PDCorr with independent control cells"
    assert any(line.startswith(said) for line in warnings(above))
    assert not any("passes the ceiling" in line for line in warnings(evaluation))


def test_an_advantage_with_shared_control_cells_alone_is_a_warning(evaluation):
    from dataclasses import replace

    shared = _changed(evaluation.shared, "PDCorr", _of(evaluation.shared, evaluation.target, "PDCorr") + 0.05)
    (said,) = (line for line in warnings(replace(evaluation, shared=shared)) if " is ahead of " in line)
    assert "in PDCorr with shared control cells, but not with independent ones" in said
    assert any("one noise into both shifts" in line for line in warnings(replace(evaluation, shared=shared)))
    assert not any("ahead of" in line for line in warnings(replace(evaluation, shared=None)))


def test_conditions_without_de_genes_and_noisy_contexts_are_warnings(evaluation, tmp_path):
    from dataclasses import replace

    few = replace(_changed(evaluation, "n_de_observed", [0, 2, 3, 40]), noise={"A": 0.71, "B": 0.1})
    said = warnings(few)
    assert any(line.startswith("2 of 4 conditions have fewer than 3 observed DE genes") for line in said)
    (noisy,) = (line for line in said if "Sampling noise" in line)
    assert "71% in A. " in noisy
    assert "B" not in noisy
    assert any("26% in B, 23% in A" in note for note in evaluation.notes)
    top = html(few)
    assert noisy in top[: top.index('<h2 id="scores">')]
    assert "Warning: 2 of 4 conditions" in _terminal(few)


def _terminal(evaluation) -> str:
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(evaluation))
    return console.export_text()


def test_labels_are_escaped(evaluation, tmp_path):
    from dataclasses import replace

    other = replace(evaluation, settings={**evaluation.settings, "predicted": "<b>x</b>"})
    write(other, tmp_path)
    assert "<b>x</b>" not in (tmp_path / "report.html").read_text()


def test_writing_again_replaces_and_leaves_other_files(folder, evaluation):
    (folder / "mine.txt").write_text("kept")
    write(evaluation, folder)
    assert (folder / "mine.txt").read_text() == "kept"
    assert len(list(folder.iterdir())) == 9
    (folder / "mine.txt").unlink()


def test_what_a_killed_evaluation_left_is_removed(evaluation, tmp_path):
    write(evaluation, tmp_path / "whole")
    for left in (".report.html.partial", ".report.html.partial.0123abcd"):
        (tmp_path / "report" / left / "new").mkdir(parents=True)
        (tmp_path / "report" / left / "new" / "other.csv").write_text("1")
    write(evaluation, tmp_path / "report")
    assert sorted(os.listdir(tmp_path / "report")) == sorted(os.listdir(tmp_path / "whole"))


def test_output_that_is_a_file(evaluation, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write(evaluation, tmp_path / "taken")


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("taken", "is a file"),
        ("taken/report", r"cannot be written \(Not a directory\)"),
        ("gone/report", r"cannot be written \(No such file or directory\)"),
        ("/proc/report", "cannot be written"),
    ],
)
def test_output_that_cannot_be_written_is_refused_before_scoring(noisy, counts, tmp_path, monkeypatch, out, reason):
    (tmp_path / "taken").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr("bionemo.perteval.inputs.reading._read", lambda *_: pytest.fail("something was read"))
    with pytest.raises(InputError, match=reason):
        evaluate(noisy, counts, out=tmp_path / out, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gone", "taken"]


def test_failed_evaluation_makes_no_folder(noisy, counts, tmp_path):
    with pytest.raises(InputError, match="seed is -1"):
        evaluate(noisy, counts, out=tmp_path / "new" / "report", seed=-1, progress=False)
    assert not list(tmp_path.iterdir())


def test_full_disk_is_one_sentence_and_leaves_no_half_file(evaluation, tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_csv", refuse)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); free space there"):
        write(evaluation, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", [80, 200])
def test_table_fits_the_terminal(evaluation, width):
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(evaluation))
    text = console.export_text()
    for word in ("DirAgr", "DEOver", "prediction", "zero-preserving", "4 conditions in 2 contexts"):
        assert word in text
    assert "…" not in text


ALONE = """
import sys


class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        absent = ("megatron", "nemo", "nemo_run", "torch", "bionemo.scale", "bionemo.cellsets")
        if name in absent or name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not installed here")


sys.meta_path.insert(0, Absent)
{then}
"""


def _alone(then, *arguments):
    """Run Python where nothing of the model's stack can be imported."""
    command = [sys.executable, "-c", ALONE.replace("{then}", then), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _run(*arguments):
    return _alone("from bionemo.perteval.cli import main\nmain()", *arguments)


def test_every_module_imports_alone():
    done = _alone(
        "import importlib, pkgutil\n"
        "import bionemo.perteval as package\n"
        "for module in pkgutil.walk_packages(package.__path__, 'bionemo.perteval.'):\n"
        "    importlib.import_module(module.name)\n"
        "    print(module.name)"
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 40


def test_the_command_is_defined_without_anything_heavy():
    done = _alone("import bionemo.perteval.cli\nprint([m for m in sys.modules if m in ('anndata', 'pandas', 'numba')])")
    assert done.stdout == "[]\n", done.stderr


def test_command(noisy, counts, tmp_path):
    noisy.write_h5ad(tmp_path / "predicted.h5ad")
    counts.write_h5ad(tmp_path / "observed.h5ad")
    (tmp_path / "held.csv").write_text("context,perturbation\nC,p1\n")
    arguments = ["evaluate", "--predicted", tmp_path / "predicted.h5ad", "--observed", tmp_path / "observed.h5ad"]
    arguments += ["--out", tmp_path / "report", "--threads", "1", "--arms", "main", "--held-out", tmp_path / "held.csv"]
    done = _run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "split halves" in done.stdout
    assert (tmp_path / "report" / "report.html").is_file()
    assert "Warning" not in done.stderr
    bad = _run(*arguments, "--control", "crtl")
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: Control label 'crtl'")
    assert len(bad.stderr.strip().splitlines()) == 1
    hostile = _run(*arguments, "--control", "\x1b[31m\n")
    assert hostile.stderr.startswith("error: Control label")
    assert "\x1b" not in hostile.stderr
    assert len(hostile.stderr.splitlines()) == 1
    unknown = _run(*arguments, "--protocol", "tahoe100n")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: There is no protocol 'tahoe100n': did you mean 'tahoe100m'")


def test_a_locale_without_the_characters_of_a_table_shows_their_numbers():
    ran = subprocess.run(
        [sys.executable, "-m", "bionemo.perteval.cli", "reference", "--cells", "8", "--genes", "20", "--no-progress"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\\u" in ran.stdout


def test_importing_is_quiet_and_scoring_leaves_logging_alone(evaluation):
    assert evaluation is not None
    assert not any(type(handler) is logging.StreamHandler for handler in logging.getLogger().handlers)
