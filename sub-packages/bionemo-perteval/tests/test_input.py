"""Bad input is refused in one sentence that names the thing and the mend."""

import base64
import gzip
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import anndata as ad
import h5py
import numpy as np
import pytest
from rich.console import Console

from bionemo.perteval import evaluate, render, write
from bionemo.perteval.progress import bar
from bionemo.screens import InputError


def _refused(match, predicted, observed, **arguments):
    with pytest.raises(InputError, match=match) as error:
        evaluate(predicted, observed, arms="main", threads=1, progress=False, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_keys_that_nobody_gave(perfect, counts):
    del perfect.uns["prediction"]
    _refused("--perturbation-key", perfect, counts)
    _refused("--context-key", perfect, counts, perturbation_key="gene")
    _refused("--control", perfect, counts, perturbation_key="gene", context_key="line")
    _refused("--target-sum", perfect, counts, perturbation_key="gene", context_key="line", control="ctrl")


def test_arguments_win_over_the_prediction(perfect, counts):
    assert "'ctrl'" in _refused("'crtl' is not in column 'gene'", perfect, counts, control="crtl")
    assert "'gene'" in _refused("no obs column 'gnee'", perfect, counts, perturbation_key="gnee")


def test_files_that_cannot_be_read(perfect, counts, tmp_path):
    _refused("There is no file .*none.h5ad", tmp_path / "none.h5ad", counts)
    (tmp_path / "text.h5ad").write_text("no")
    _refused("text.h5ad is neither an .h5ad file nor a .zarr directory", tmp_path / "text.h5ad", counts)
    (tmp_path / "packed.h5ad.gz").write_bytes(gzip.compress(b"cells"))
    _refused("is a packed file: unpack it", tmp_path / "packed.h5ad.gz", counts)
    (tmp_path / "folder").mkdir()
    _refused("folder is a directory but no zarr", tmp_path / "folder", counts)
    perfect.write_h5ad(tmp_path / "p.h5ad")
    with h5py.File(tmp_path / "linked.h5ad", "w") as file:
        for name in ("X", "obs", "var", "uns"):
            file[name] = h5py.ExternalLink("p.h5ad", name)
    _refused("is a link to another file", tmp_path / "linked.h5ad", counts)


def test_zarr_directories_are_read(noisy, counts, evaluation, tmp_path):
    noisy.write_zarr(tmp_path / "predicted.zarr")
    counts.write_zarr(tmp_path / "observed.zarr")
    found = evaluate(
        str(tmp_path / "predicted.zarr"),
        tmp_path / "observed.zarr",
        held_out=[("C", "p1")],
        arms="main",
        threads=1,
        progress=False,
    )
    np.testing.assert_array_equal(found.table.loc["prediction"], evaluation.table.loc["prediction"])
    assert found.settings["observed"] == "observed.zarr"


def test_genes_that_are_missing_are_named(perfect, counts):
    perfect.var_names = ["G_0", "G_1", *perfect.var_names[2:]]
    message = _refused("2 of 120 predicted genes", perfect, counts)
    assert "'G_0', 'G_1'" in message


def test_a_gene_twice(perfect, counts):
    perfect.var_names = ["g1", *perfect.var_names[1:]]
    _refused("'g1' occurs more than once", perfect, counts)


def test_conditions_that_were_not_observed(perfect, counts):
    perfect.obs["gene"] = perfect.obs["gene"].astype(str).replace("p1", "p11")
    assert "'p1'" in _refused("'p11' was predicted for context 'A'", perfect, counts)
    perfect.obs["line"] = "Z"
    _refused("Context 'Z' was predicted", perfect, counts)


def test_labels_that_look_like_the_control_are_refused_and_other_look_alikes_said(perfect, counts):
    observed = counts.copy()
    observed.obs["gene"] = [" CTRL", *observed.obs["gene"].astype(str)[1:]]
    _refused("is the control label 'ctrl' but for capitals or blanks", perfect, observed)
    observed.obs["gene"] = ["P2", *counts.obs["gene"].astype(str)[1:]]
    found = evaluate(perfect, observed, arms="main", threads=1, progress=False)
    assert any("differ only by capitals or blanks" in note for note in found.notes)


def test_only_controls(perfect, counts):
    perfect.obs["gene"] = "ctrl"
    _refused("no perturbed cells", perfect, counts)


def test_empty_labels(perfect, counts):
    perfect.obs["gene"] = perfect.obs["gene"].astype(object).where(np.arange(perfect.n_obs) > 2, None)
    _refused("is empty for 3 cells", perfect, counts)


def test_context_without_controls(perfect, counts):
    rows = ~((counts.obs["line"] == "B") & (counts.obs["gene"] == "ctrl")).to_numpy()
    _refused(r"no control cells \('ctrl'\) in 'B'", perfect, counts[rows].copy())


def _with_single_cells(counts, *conditions):
    """Return the observed cells with one cell left of each of some conditions."""
    keep = np.ones(counts.n_obs, dtype=bool)
    for line, gene in conditions:
        keep[np.flatnonzero((counts.obs["line"] == line) & (counts.obs["gene"] == gene))[1:]] = False
    return counts[keep].copy()


def test_single_observed_cells_are_all_named_at_once(perfect, counts):
    few = _with_single_cells(counts, ("B", "p2"), ("A", "p3"))
    message = _refused("2 observed populations have one cell", perfect, few)
    assert "A / p3, B / p2" in message
    assert "--min-cells 2" in message
    assert "B / ctrl" in _refused("1 observed populations", perfect, _with_single_cells(counts, ("B", "ctrl")))


def test_min_cells_leaves_small_conditions_out_and_says_so(perfect, counts, tmp_path):
    few = _with_single_cells(counts, ("B", "p2"), ("A", "p3"))
    found = evaluate(
        perfect, few, min_cells=2, arms="main", threads=1, progress=False, out=tmp_path, held_out=[("C", "p1")]
    )
    assert found.settings["scored"] == {"A": ["p1", "p2"]}
    assert found.settings["left_out"] == [["A", "p3"], ["B", "p2"]]
    assert not {("A", "p3"), ("B", "p2")} & {tuple(pair) for pair in found.settings["training"]}
    notice = found.notices[0]
    assert notice.startswith("2 of 4 predicted conditions were left out")
    assert "A / p3 (" in notice
    assert notice in json.loads((tmp_path / "metrics.json").read_text())["notices"]
    page = (tmp_path / "report.html").read_text()
    assert page.index(notice) < page.index('<h2 id="scores">')
    assert notice in " ".join(_terminal(found).split())


def test_min_cells_counts_predicted_and_control_cells_too(perfect, counts):
    """Forty-five cells: the 120 controls are enough, and of the predicted ones only (B, p2) was thinned below."""
    rows = np.ones(perfect.n_obs, dtype=bool)
    rows[np.flatnonzero((perfect.obs["line"] == "B").to_numpy())[3:]] = False
    options = {"arms": "main", "threads": 1, "progress": False}
    assert evaluate(perfect[rows].copy(), counts, min_cells=4, **options).settings["left_out"] == [["B", "p2"]]
    few = _with_single_cells(counts, ("B", "ctrl"))
    assert evaluate(perfect, few, min_cells=2, **options).settings["left_out"] == [["B", "p2"]]
    _refused("No predicted condition has 500 cells", perfect, counts, min_cells=500)
    _refused("min_cells is 1, but a test needs at least 2", perfect, counts, min_cells=1)


def _terminal(evaluation) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(evaluation))
    return console.export_text()


def test_a_prediction_does_not_choose_the_layer_of_the_observed_file(perfect, counts):
    perfect.uns["prediction"]["layer"] = "other"
    observed = counts.copy()
    observed.layers["other"] = counts.X * 3  # still counts: it would be scored without a word
    found = evaluate(perfect, observed, arms="main", threads=1, progress=False)
    assert found.settings["layer"] is None
    assert found.table.loc["prediction", "MSE"] == pytest.approx(0, abs=1e-6)
    assert any("made from layer 'other', and X of the observed AnnData was scored" in note for note in found.notes)


HOSTILE = "x\x1b[31m\x00\x08]]>[/red][bold]&<b>$\u202e"


def test_the_progress_bar_shows_labels_as_text(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with bar(True, 1) as begin:
        begin(HOSTILE)
    shown = capsys.readouterr().err
    assert r"x\x1b[31m" in shown
    assert "[/red][bold]" in shown


def test_labels_with_control_characters_and_markup_stay_text(perfect, counts, tmp_path):
    for cells in (perfect, counts):
        for column in ("line", "gene"):
            cells.obs[column] = cells.obs[column].astype(str).replace({"A": f"A{HOSTILE}", "p1": f"p1{HOSTILE}"})
    try:
        found = evaluate({HOSTILE: perfect, "[/red]": perfect}, counts, arms="main", threads=1, progress=False)
        write(found, tmp_path)
    finally:
        for column in ("line", "gene"):
            counts.obs[column] = counts.obs[column].str.replace(HOSTILE, "")
    page = (tmp_path / "report.html").read_text()
    assert not set(page) & set("\x1b\x00\x08\u202e")
    assert "<b>" not in page.replace("<br>", "")
    pictures = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    assert len(pictures) > 10
    for picture in pictures:
        ElementTree.fromstring(base64.b64decode(picture))
    text = _terminal(found)
    assert "[/red] less" in text or "less [/red]" in text
    assert "x\\x1b[31m" in text
    json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_text(noisy, counts, tmp_path, kind):
    noisy.write_h5ad(tmp_path / "p.h5ad")
    found = evaluate(
        kind(tmp_path / "p.h5ad"), counts, arms="main", threads=1, progress=False, out=kind(tmp_path / "report")
    )
    assert found.settings["predicted"] == "p.h5ad"
    assert (tmp_path / "report" / "report.html").exists()


def test_the_share_of_the_network_stands_first(perfect, counts, tmp_path):
    made_of = "75% of a linear start and 25% of the network"
    perfect.uns["prediction"] |= {"network_share": 0.25, "made_of": made_of, "evidence": "none"}
    found = evaluate(perfect, counts, arms="main", threads=1, progress=False, out=tmp_path)
    notice = found.notices[0]
    assert notice == "the predicted AnnData is 75% of a linear start and 25% of the network."
    page = (tmp_path / "report.html").read_text()
    assert 0 < page.index("of a linear start and 25%") < page.index('<h2 id="scores">')
    assert json.loads((tmp_path / "metrics.json").read_text())["settings"]["prediction"]["network_share"] == 0.25


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize("column", ["line", "gene"])
def test_blank_labels_are_refused(perfect, counts, column, blank):
    perfect.obs[column] = [blank, *perfect.obs[column].astype(str)[1:]]
    _refused("is empty for 1 cells", perfect, counts)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda x: np.rint(x * 10), "integers .* which are counts"),
        (lambda x: np.expm1(x), "log1p values stay below 15"),
        (lambda x: x - 0.5, "negative values"),
        (lambda x: np.where(x > 3, np.nan, x), "NaN or infinite"),
    ],
)
def test_predicted_values_on_the_wrong_scale(perfect, counts, spoil, match):
    spoilt = ad.AnnData(spoil(perfect.X.toarray()), obs=perfect.obs, var=perfect.var, uns=perfect.uns)
    _refused(match, spoilt, counts)


def test_observed_values_on_the_wrong_scale(perfect, counts):
    normalised = counts.copy()
    normalised.X = counts.X * 17.3
    _refused("neither counts .* nor log1p", perfect, normalised)
    broken = counts.copy()
    broken.X.data[5] = np.nan
    _refused("NaN or infinite", perfect, broken)
    empty = counts.copy()
    empty.X = counts.X * 0
    _refused("nothing but zeros", perfect, empty)


def test_layer(perfect, counts, log1p):
    layered = log1p.copy()
    layered.layers["counts"] = counts.X.copy()
    evaluation = evaluate(perfect, layered, layer="counts", arms="main", threads=1, progress=False)
    assert evaluation.settings["target_sum"] == 1e4
    assert "'counts'" in _refused("no layer 'cuonts'", perfect, layered, layer="cuonts")


def test_inputs_are_left_as_they_were(perfect, counts):
    before = counts.X.copy(), perfect.X.copy()
    evaluate(perfect, counts, arms="main", threads=1, progress=False)
    assert (before[0] != counts.X).nnz == 0
    assert (before[1] != perfect.X).nnz == 0


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("threads", 0), ("target_sum", 0.0)])
def test_numbers_out_of_range(perfect, counts, name, value):
    with pytest.raises(InputError, match=name):
        evaluate(perfect, counts, progress=False, **{name: value})


def test_a_key_may_join_two_columns(perfect, counts):
    for cells in (perfect, counts):
        cells.obs["half"] = "x"
    found = evaluate(perfect, counts, context_key="line+half", arms="main", threads=1, progress=False)
    assert all(context.endswith("+x") for context in found.settings["scored"])
    _refused("no obs column 'halff'", perfect, counts, context_key="line+halff")
