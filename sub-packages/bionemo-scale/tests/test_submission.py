"""Predictions in the layout of the Virtual Cell Challenge 2026, and the check of such files."""

import os
import subprocess

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from bionemo.scale.inference.predict import predict
from bionemo.scale.inference.submission import check_submission
from bionemo.screens.controls import ControlRole, ControlRoles
from bionemo.screens.errors import InputError


@pytest.fixture
def of_one_line(written):
    """Control cells of line B."""
    return written(lambda cells: cells[cells.obs["line"] == "B"].copy(), "line.h5ad")


@pytest.fixture
def asked(tmp_path):
    def write(*rows: str, head: str = "target,cells"):
        path = tmp_path / "targets.csv"
        path.write_text("\n".join([head, *rows]) + "\n")
        return path

    return write


@pytest.fixture
def submitted(run_path, of_one_line, asked, tmp_path):
    """Predict a submission and read it back."""

    def run(*rows: str, controls=None, out="submission.h5ad", **settings) -> ad.AnnData:
        given = {"layout": "vcc2026", "overwrite": True} | settings
        if "targets" not in given:
            given["targets"] = asked(*rows)
        predict(run_path, controls or of_one_line, tmp_path / out, progress=False, **given)
        return ad.read_h5ad(tmp_path / out)

    return run


def test_a_submission_has_the_cells_that_were_asked_for_and_the_control_cells(submitted, screen, vocabulary):
    cells = submitted("TP53,7", "MYC,11")
    controls = screen[(screen.obs["line"] == "B") & (screen.obs["target"] == "ctrl")]
    controls = controls[ControlRoles().has(controls.obs_names, ControlRole.INPUT)]
    assert cells.obs["target"].value_counts().to_dict() == {
        "MYC": 11, "TP53": 7, "non-targeting": controls.n_obs,
    }  # fmt: skip
    assert list(cells.obs.columns) == ["target"]
    assert list(cells.var_names) == list(vocabulary.genes)
    assert cells.obs_names.is_unique
    written = cells[cells.obs["target"] == "non-targeting"].X.toarray()
    np.testing.assert_array_equal(written, controls.X.toarray())
    counts = cells.X.toarray()
    np.testing.assert_array_equal(counts, np.rint(counts))
    assert counts.min() >= 0


def test_counts_are_those_of_the_log1p_prediction(submitted, run_path, of_one_line, asked, tmp_path, vocabulary):
    like = of_one_line
    predict(run_path, like, tmp_path / "log1p.h5ad", like=like, part="all", progress=False)
    log1p = ad.read_h5ad(tmp_path / "log1p.h5ad")
    cells = submitted(targets=None, like=like, part="all")
    library = ad.read_h5ad(like)[log1p.obs["control_cell"]].X.sum(axis=1).A1
    expected = np.expm1(log1p.X.toarray().astype(np.float64)) * library[:, None] / vocabulary.target_sum
    np.testing.assert_allclose(cells.X.toarray()[: len(expected)], expected, atol=1e-3)
    assert cells.obs["target"].astype(str)[: len(expected)].tolist() == log1p.obs["target"].astype(str).tolist()


def test_the_panel_decides_which_genes_and_in_which_order(submitted, tmp_path, vocabulary):
    panel = tmp_path / "genes.txt"
    panel.write_text("gene3\ngene0\ngene11\n")
    whole, cut = submitted("MYC,5"), submitted("MYC,5", panel=panel)
    assert list(cut.var_names) == ["gene3", "gene0", "gene11"]
    np.testing.assert_array_equal(cut.X.toarray(), whole[:, cut.var_names].X.toarray())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["MYC,5", "MYC,6"], "names 'MYC' a second time: name each target once"),
        (["ctrl,5"], "names 'ctrl' though it is the label of the control cells"),
        (["MYC,1"], "asks for '1' cells of 'MYC': ask for a number from 2 on"),
        (["MYC,many"], "asks for 'many' cells of 'MYC'"),
        (["GATA1,5"], "perturbation 'GATA1' was never seen in training"),
        ([], "names no target"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(submitted, rows, said):
    with pytest.raises(InputError, match=said):
        submitted(*rows)


def test_what_does_not_fit_into_a_submission_is_refused(submitted, written, asked, tmp_path):
    with pytest.raises(InputError, match=r"is of one context, and .* has control cells of 'A', 'B', 'C'"):
        submitted("MYC,5", controls=written())
    panel = tmp_path / "genes.txt"
    panel.write_text("gene1\nACTB\n")
    with pytest.raises(InputError, match=r"lacks 1 of 2 genes of .*genes.txt, 'ACTB': prepare .* with --all-genes"):
        submitted("MYC,5", panel=panel)
    panel.write_text("gene1\ngene1\n")
    with pytest.raises(InputError, match="names 'gene1' twice"):
        submitted("MYC,5", panel=panel)
    with pytest.raises(InputError, match="give a CSV with target,cells"):
        submitted(targets=asked("MYC,5", head="gene,number"))
    with pytest.raises(InputError, match="is a folder, and a submission is one file"):
        submitted("MYC,5", out="folder")
    with pytest.raises(InputError, match="go with --format vcc2026"):
        submitted("MYC,5", layout=None)
    assert not (tmp_path / "submission.h5ad").exists()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda cells: cells[:, ::-1], "other genes than the panel, or has them in another order"),
        (lambda cells: cells[1:], "has 4 cells of 'MYC', and 5 were asked for"),
        (lambda cells: cells[cells.obs["target"] != "non-targeting"], "has no cell labelled 'non-targeting'"),
        (lambda cells: _with(cells, np.log1p(cells.X.toarray())), "which is no count"),
        (lambda cells: _with(cells, -cells.X.toarray()), "which is no count"),
        (lambda cells: _with(cells, 1e6 * (1 + cells.X.toarray())), "a submission has at most 1,000,000"),
    ],
)
def test_the_check_finds_what_the_challenge_would_refuse(submitted, tmp_path, vocabulary, harm, said):
    cells = submitted("MYC,5")
    check_submission(tmp_path / "submission.h5ad", vocabulary.genes, {"MYC": 5})
    harm(cells).copy().write_h5ad(tmp_path / "harmed.h5ad")
    with pytest.raises(InputError, match=said):
        check_submission(tmp_path / "harmed.h5ad", vocabulary.genes, {"MYC": 5})


AS_THE_CHALLENGE = """
import sys
import anndata
from cell_eval2 import EvalConfig, norm
from cell_eval2.io import validate_pair

config = EvalConfig.from_preset("vcc2026")
submission, real = map(anndata.read_h5ad, sys.argv[1:])
validate_pair(submission, real, pert_col=config.pert_col, control=config.control)
norm.validate_input_type(submission, config.input_type, allow_fractional=config.allow_fractional_counts)
norm.check_scale_limit(submission, config.input_type, config.max_counts_per_cell)
"""


@pytest.mark.slow
def test_cell_eval2_accepts_a_submission(submitted, of_one_line, tmp_path):
    from bionemo.perteval.engines.challenge import CELL_EVAL2

    submitted(targets=None, like=of_one_line, part="all")
    real = ad.read_h5ad(of_one_line)
    real.obs["target"] = real.obs["target"].astype(str).replace({"ctrl": "non-targeting"})
    real.write_h5ad(tmp_path / "real.h5ad")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(CELL_EVAL2.prepare()), "-c", AS_THE_CHALLENGE, "submission.h5ad", "real.h5ad"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _with(cells: ad.AnnData, values: np.ndarray) -> ad.AnnData:
    return ad.AnnData(sparse.csr_matrix(values.astype(np.float32)), obs=cells.obs, var=cells.var)
