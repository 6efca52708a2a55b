"""Perturbations that a trained model is told of by observed cells, without training."""

from dataclasses import replace

import anndata as ad
import pytest
import torch
from typer.testing import CliRunner

import bionemo.scale as scale
from bionemo.scale.cli.app import app
from bionemo.screens.errors import InputError


@pytest.fixture
def model(build, vocabulary, run_path):
    """A model with some linear start, given evidence; it knows contexts A and B and perturbations MYC and TP53."""
    network = build(start="linear", evidence="on", names=replace(vocabulary, start_labels=("MYC", "TP53"))).eval()
    start = network.linear_start
    for name, buffer in start.named_buffers():
        buffer.copy_(
            torch.rand(buffer.shape) + 0.1 if name in ("variance", "unit", "size") else torch.rand(buffer.shape) / 4
        )
    network.network_share.fill_(0.5)
    return replace(scale.load(run_path), network=network)


@pytest.fixture
def evidence(screen):
    """Control cells of A, and cells of TP53 there that are called NEW."""
    cells = screen[(screen.obs["line"] == "A") & screen.obs["target"].isin(["ctrl", "TP53"])].copy()
    cells.obs["target"] = cells.obs["target"].astype(str).replace("TP53", "NEW")
    return cells


def elsewhere(screen) -> ad.AnnData:
    return screen[screen.obs["line"] != "A"]


def test_a_new_perturbation_is_predicted_elsewhere_and_the_file_says_from_what(model, screen, evidence):
    made = model.predict(elsewhere(screen), perturbations="NEW", evidence=evidence)
    assert set(made.obs["target"]) == {"NEW"}
    said = made.uns["prediction"]["evidence"]
    assert said == {"file": "AnnData in memory", "observed": "NEW in A"}
    trained = made.uns["training_conditions"]
    assert ("A", "NEW") in set(zip(trained["context"], trained["perturbation"], strict=True))
    other = ad.AnnData(evidence.X.copy(), obs=evidence.obs, var=evidence.var)
    new = (evidence.obs["target"] == "NEW").to_numpy()
    other.X[new] = evidence.X[new][:, ::-1]
    otherwise = model.predict(elsewhere(screen), perturbations="NEW", evidence=other, network_share=1.0)
    network = model.predict(elsewhere(screen), perturbations="NEW", evidence=evidence, network_share=1.0)
    assert (network.X != made.X).nnz
    assert (network.X != otherwise.X).nnz  # the network sees the evidence too
    with pytest.raises(InputError, match="'NEW' was never seen in training"):
        model.predict(elsewhere(screen), perturbations="NEW")  # nothing is left in the model


def test_a_combination_with_a_new_perturbation_is_made_of_both(model, screen, evidence):
    made = model.predict(elsewhere(screen), perturbations="NEW+MYC", evidence=evidence)
    assert set(made.obs["target"]) == {"NEW+MYC"}


def test_what_evidence_cannot_say_is_refused_by_name(model, run_path, screen, evidence):
    others = elsewhere(screen)

    def refused(match, cells, of=model, controls=others):
        with pytest.raises(InputError, match=match):
            of.predict(controls, perturbations="NEW", evidence=cells)

    refused("--evidence shows perturbation 'NEW' in context 'A', which is asked for", evidence, controls=screen)
    old = evidence.copy()
    old.obs["target"] = old.obs["target"].replace("NEW", "TP53")
    refused("shows perturbation 'TP53', which the model was trained on: --evidence is for new ones", old)
    refused("has no control cells: none is labelled 'ctrl'", evidence[evidence.obs["target"] != "ctrl"].copy())
    refused("has control cells alone", evidence[evidence.obs["target"] == "ctrl"].copy())
    strange = evidence.copy()
    strange.obs["line"] = "Z"
    refused("in context 'Z', where training showed none", strange)
    elsewhere_controls = ad.concat([evidence[evidence.obs["target"] != "ctrl"], screen[screen.obs["target"] == "ctrl"]])
    elsewhere_controls = elsewhere_controls[
        (elsewhere_controls.obs["line"] != "A") | (elsewhere_controls.obs["target"] == "NEW")
    ]
    refused("no control cell of role 'input' in context 'A'", elsewhere_controls.copy())
    refused("lacks 1 of the model's 20 genes", evidence[:, 1:].copy())
    refused("the model has no linear start to tell", evidence, of=scale.load(run_path))


def test_a_network_that_was_trained_without_evidence_is_left_out(build, vocabulary, run_path, screen, evidence):
    network = build(start="linear", names=replace(vocabulary, start_labels=("MYC", "TP53"))).eval()
    network.network_share.fill_(0.5)
    model = replace(scale.load(run_path), network=network)
    made = model.predict(elsewhere(screen), perturbations="NEW", evidence=evidence)
    assert made.uns["prediction"]["network_share"] == 0
    with pytest.raises(InputError, match=r"--network-share 0\.5: .*model\.evidence=off"):
        model.predict(elsewhere(screen), perturbations="NEW", evidence=evidence, network_share=0.5)


def test_the_command_takes_evidence(run_path, written, evidence, tmp_path):
    evidence.write_h5ad(tmp_path / "evidence.h5ad")
    given = ("predict", "--checkpoint", run_path, "--controls", written(), "--out", tmp_path / "out.h5ad")
    shown = CliRunner().invoke(
        app, [*map(str, given), "--perturbations", "NEW", "--evidence", str(tmp_path / "evidence.h5ad")]
    )
    assert shown.exit_code == 2 or isinstance(shown.exception, InputError)
    assert "no linear start to tell" in str(shown.exception) + shown.output
