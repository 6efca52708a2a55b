"""Known cheats are flagged by name or scored where they belong; honest predictions and baselines raise no alarm."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest

from bionemo.perteval import evaluate
from bionemo.perteval.checks.flags import CHECKS
from bionemo.perteval.inputs.alignment import align
from bionemo.perteval.inputs.divisions import SHARED
from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile
from bionemo.perteval.populations.baselines import BASELINES, available
from bionemo.perteval.populations.catalogue import draw
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.populations.views import View
from bionemo.perteval.report.page import html
from bionemo.screens import InputError

KEYS = Keys(perturbation_key="gene", context_key="line", control="ctrl", target_sum=1e4, layer=None)


@pytest.fixture(scope="module")
def screen(noisy, counts):
    return align([CellFile(arm="prediction", cells=noisy, name="noisy")], CellFile(cells=counts, name="observed"), KEYS)


def _views(screen):
    estimates = Estimates(screen)
    return {line: View.of(screen, estimates, line, SHARED) for line in screen.scored}


@pytest.fixture(scope="module")
def honest(screen, noisy):
    """Name -> cells of every scored condition, in the order of `noisy`: a model, and every baseline and oracle."""
    views = _views(screen)
    made = {"model": noisy.X.toarray()}
    for name in available(screen):
        made[f"as {name}"] = _assembled(noisy, lambda line, gene, name=name: draw(views[line], name, gene, seed=7))
    return made


@pytest.fixture(scope="module")
def cheats(screen, noisy, log1p):
    """Name -> cells: what a score can be raised with."""
    rng = np.random.default_rng(3)
    views = _views(screen)
    transferred = "control cells + transferred delta, zero-preserving"
    plausible = _assembled(noisy, lambda line, gene: draw(views[line], transferred, gene, seed=5))
    labels = [tuple(pair) for pair in noisy.obs[["line", "gene"]].to_numpy(str)]
    mean = {
        pair: plausible[[i for i, other in enumerate(labels) if other == pair]].mean(axis=0) for pair in set(labels)
    }
    own_mean = np.stack([mean[pair] for pair in labels])
    control = {line: screen.mean(line, "ctrl") for line in "AB"}
    control_mean = np.stack([control[line] for line, _ in labels])
    truth = {pair: screen.cells(*pair).toarray() for pair in set(labels)}
    first = {line: next(pair for pair in labels if pair[0] == line) for line in "AB"}
    return {
        "variance inflated": np.clip(own_mean + 2.5 * (plausible - own_mean), 0, 14),
        "control mean tiled": control_mean,
        "effects scaled": np.clip(plausible + 3 * (own_mean - control_mean), 0, 14),
        "one perturbation copied to all": np.stack([_one(truth[first[line]], rng) for line, _ in labels]) * 0.999,
        "every gene DE": np.maximum(plausible + np.where(rng.random(plausible.shape[1]) < 0.5, 0.8, -0.8), 0),
        "another target sum": np.log1p(np.expm1(plausible) / 100),
        "observed cells": np.stack([_one(truth[pair], rng) for pair in labels]),
        "observed mean, jittered": np.abs(
            np.stack([truth[pair].mean(axis=0) for pair in labels]) + rng.normal(0, 0.02, plausible.shape)
        ),
        "two cells many times": np.stack([plausible[labels.index(pair) + int(rng.integers(2))] for pair in labels]),
        "control cells returned": np.stack([_one(screen.control_cells(line).toarray(), rng) for line, _ in labels]),
    }


@pytest.fixture(scope="module")
def judged(honest, cheats, noisy, counts):
    """One evaluation of them all."""
    predictions = {name: _like(noisy, cells) for name, cells in {**honest, **cheats}.items()}
    return evaluate(predictions, counts, arms="main", threads=1, progress=False)


EXPECTED = {
    "variance inflated": "spread",
    "control mean tiled": "spread",
    "effects scaled": "effect size",
    "one perturbation copied to all": "one population for several",
    "every gene DE": "excess of DE genes",
    "another target sum": "scale",
    "observed cells": "observed cells",
    "observed mean, jittered": "error below noise",
    "two cells many times": "repeated cells",
    "control cells returned": "control cells",
}


@pytest.mark.parametrize(("cheat", "check"), EXPECTED.items())
def test_a_cheat_raises_its_flag(judged, cheat, check):
    assert check in _raised(judged, cheat)


def test_every_check_catches_a_cheat_or_a_baseline(judged):
    caught = {flag.check.name for flag in judged.flags if flag.raised}
    assert caught == {check.name for check in CHECKS}


def test_honest_predictions_raise_nothing(judged):
    like_cells = [name for name in BASELINES if name.endswith("zero-preserving")]
    for name in ("model", "as perturbation cells", "as context cells", *(f"as {name}" for name in like_cells)):
        assert _raised(judged, name) == set(), name


def test_no_baseline_is_called_invalid(judged):
    kinds = {(flag.arm.removeprefix("as "), flag.check.kind) for flag in judged.flags if flag.raised}
    wrong = {arm for arm, kind in kinds if kind == "invalid" and arm in BASELINES and not BASELINES[arm].oracle}
    assert wrong == set()


def test_raised_flags_stand_first_on_the_page(judged):
    shown = {name: arm for name, arm in judged.arms.items() if arm.kind != "prediction" or name == "observed cells"}
    page = html(replace(judged, arms=shown))
    top = page[: page.index('<h2 id="scores">')]
    assert top.count("INVALID") == 1
    assert "Cells of the answer stand in the prediction." in top


def test_cheats_without_a_flag_of_their_own_are_scored_where_they_belong(judged):
    table = judged.shared.table  # made from all control cells
    assert (
        table.loc["variance inflated", "DEPrec"]
        < table.loc["control cells + transferred delta, zero-preserving", "DEPrec"]
    )
    assert table.loc["effects scaled", "MSE"] > table.loc["control cells + transferred delta", "MSE"]
    assert table.loc["one perturbation copied to all", "PDS_l1"] < table.loc["model", "PDS_l1"]
    assert table.loc["control mean tiled", "DEPrec"] < table.loc["model", "DEPrec"]
    assert table.loc["every gene DE", "DEPrec"] < table.loc["model", "DEPrec"]
    assert table.loc["every gene DE", "MSE"] > table.loc["control cells", "MSE"]


def test_counts_are_refused(noisy, counts, scored_rows):
    passed = _like(noisy, counts.X[scored_rows].toarray())
    with pytest.raises(InputError, match=r"integers .* which are counts"):
        evaluate(passed, counts, threads=1, progress=False)


def test_predicted_controls_and_the_number_of_cells_change_nothing(noisy, counts):
    """Control cells of the prediction are not used, and more cells of the same population find no more DE genes."""
    silenced = noisy[noisy.obs["line"] == "A"].copy()
    silenced.X = silenced.X * 0
    silenced.obs["gene"] = "ctrl"
    swapped = ad.concat([noisy, silenced], merge="same")
    tripled = ad.concat([noisy, noisy, noisy], merge="same")
    for cells in (swapped, tripled):
        cells.obs_names_make_unique()
        cells.uns["prediction"] = noisy.uns["prediction"]
    found = evaluate(
        {"plain": noisy, "swapped": swapped, "tripled": tripled}, counts, arms="main", threads=1, progress=False
    )
    scores = found.per_perturbation.set_index(["context", "perturbation"])
    plain, other = (scores[scores["arm"] == arm].drop(columns="arm") for arm in ("plain", "swapped"))
    assert plain.equals(other)
    assert found.table.loc["tripled", "n_de_predicted"] < 1.3 * found.table.loc["plain", "n_de_predicted"] + 3
    assert any("tripled" in note and "resampled to the observed number" in note for note in found.notes)


def _raised(evaluation, arm):
    return {flag.check.name for flag in evaluation.flags if flag.arm == arm and flag.raised}


def _like(noisy, cells):
    made = ad.AnnData(np.asarray(cells, dtype=np.float32), obs=noisy.obs.copy(), var=noisy.var.copy())
    made.uns["prediction"] = noisy.uns["prediction"]
    return made


def _one(cells, rng):
    return cells[rng.integers(len(cells))]


def _assembled(noisy, cells_of):
    """Put the cells of each condition where `noisy` has that condition."""
    made = np.zeros(noisy.shape, dtype=np.float32)
    labels = noisy.obs[["line", "gene"]].astype(str)
    for (line, gene), rows in labels.groupby(["line", "gene"]).indices.items():
        cells = cells_of(line, gene)
        made[rows] = cells if isinstance(cells, np.ndarray) else cells.toarray()
    return made
