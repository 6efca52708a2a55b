"""Independent control cells rank models as their true errors do; a cheat with their noise wins with shared ones."""

import anndata as ad
import numpy as np
import pytest

from bionemo.perteval import evaluate, warnings
from bionemo.perteval.report.files import to_dict
from bionemo.screens import InputError
from bionemo.screens.controls import ControlRole, ControlRoles, Controls
from bionemo.screens.simulation import CONTROL, draw_screen, expected_shift, log1p_of

SIZE = {"genes": 300, "contexts": 1, "perturbations": 12, "batches": 1, "seed": 3}
CONTEXT = "context_1"
KEYS = {"perturbation_key": "perturbation", "context_key": "context", "control": CONTROL}
FEW = 45
"""Control cells that the screen keeps, so that their noise counts."""

ERRORS = {"best": 0.3, "good": 0.8, "fair": 1.5, "poor": 3.0}
"""Honest model -> length of the error of its shifts over that of the expected shifts."""

CHEAT, CHEAT_ERROR = "cheat", 1.2
OPTIONS = {"arms": "main", "threads": 1, "progress": False}


def _is_control(cells):
    return (cells.obs["perturbation"] == CONTROL).to_numpy()


def _mean(cells):
    return np.asarray(cells.X.mean(axis=0, dtype=np.float64)).ravel()


@pytest.fixture(scope="module")
def simulated():
    """A screen with few control cells, its expected control mean, and its perturbations with an effect."""
    screen = log1p_of(draw_screen(cells=15 * 100, **SIZE))
    many = log1p_of(draw_screen(cells=15 * 1500, **SIZE))  # of the same truth
    spare = np.flatnonzero(_is_control(screen))[FEW:]
    screen = screen[np.setdiff1d(np.arange(screen.n_obs), spare)].copy()
    names = [name for name in screen.obs["perturbation"].unique() if name != CONTROL]
    acting = sorted(name for name in names if np.abs(expected_shift(screen, CONTEXT, name)).max() > 0)
    return screen, _mean(many[_is_control(many)]), acting


@pytest.fixture(scope="module")
def models(simulated):
    """Model -> predicted cells, all alike with the model's shift; and its correlation with the expected shifts."""
    screen, expected_control, acting = simulated
    controls = screen[_is_control(screen)]
    known = _mean(controls[ControlRoles().has(controls.obs_names, ControlRole.INPUT)])
    obs = screen.obs[screen.obs["perturbation"].isin(acting)][["context", "perturbation"]].astype(str)
    rng = np.random.default_rng(0)
    predictions, truth = {}, {}
    for name, error in {**ERRORS, CHEAT: CHEAT_ERROR}.items():
        # The cheat starts from the expected control mean: less the shared mean, its shifts have the noise of that.
        start = expected_control if name == CHEAT else known
        cells, correlations = np.empty((len(obs), screen.n_vars), dtype=np.float32), []
        for label in acting:
            shift = expected_shift(screen, CONTEXT, label)
            noise = rng.normal(size=shift.size)
            made = shift + noise * error * np.linalg.norm(shift) / np.linalg.norm(noise)
            correlations.append(np.corrcoef(made, shift)[0, 1])
            cells[(obs["perturbation"] == label).to_numpy()] = np.maximum(start + made, 0)
        prediction = ad.AnnData(cells, obs=obs.copy(), var=screen.var.copy())
        prediction.uns["prediction"] = {**KEYS, "controls": ControlRoles().to_dict()}
        predictions[name], truth[name] = prediction, float(np.mean(correlations))
    return predictions, truth


@pytest.fixture(scope="module")
def judged(models, simulated):
    return evaluate(models[0], simulated[0], **OPTIONS)


def test_independent_scores_rank_models_as_their_true_errors_do(judged, models):
    _, truth = models
    honest = sorted(ERRORS, key=truth.__getitem__)
    scores = judged.table["PDCorr"]
    assert sorted(ERRORS, key=scores.__getitem__) == honest
    assert judged.controls is Controls.INDEPENDENT


def test_a_cheat_with_the_noise_of_the_controls_wins_with_shared_ones_alone(judged, models):
    _, truth = models
    assert truth[CHEAT] < truth["good"] < truth["best"]
    shared, independent = judged.shared.table["PDCorr"], judged.table["PDCorr"]
    assert shared[CHEAT] == max(shared[name] for name in judged.predictions)
    assert independent[CHEAT] < independent["good"] < independent["best"]


def test_the_cheat_is_caught(judged):
    caught = [line for line in warnings(judged) if "one noise into both shifts" in line]
    assert [line.split(" is ")[0] for line in caught] == [f"PDCorr of {CHEAT}"]
    assert caught[0] in to_dict(judged)["warnings"]


def test_noise_is_what_two_halves_do_not_share(judged, simulated):
    """The share that is noise, by split halves, is near the one that the expected shifts say."""
    screen, _, acting = simulated
    controls = screen[_is_control(screen)]
    truth = _mean(controls[ControlRoles().has(controls.obs_names, ControlRole.TRUTH)])
    signal = whole = 0.0
    for label in acting:
        signal += expected_shift(screen, CONTEXT, label).var()
        whole += (_mean(screen[(screen.obs["perturbation"] == label).to_numpy()]) - truth).var()
    assert judged.noise[CONTEXT] == pytest.approx(1 - signal / whole, abs=0.1)


def _with_roles(noisy, **said):
    made = noisy.copy()
    made.uns["prediction"] = {**noisy.uns["prediction"], "controls": {**ControlRoles().to_dict(), **said}}
    return made


def test_every_seed_is_scored_with_its_own_rotation(noisy, counts, tmp_path):
    files = [_with_roles(noisy, rotation=rotation) for rotation in (0, 1, 2)]
    for place, file in enumerate(files):
        file.write_h5ad(tmp_path / f"{place}.h5ad")  # whose numbers come back as numpy's
    options = {"controls": "independent", **OPTIONS}
    paths = [tmp_path / f"{place}.h5ad" for place in range(3)]
    together = evaluate({"model": paths}, counts, **options)
    alone = [evaluate({"model": path}, counts, **options) for path in paths]
    assert together.settings["control_rotations"] == [0, 1, 2]
    seeds = together.per_seed_table.loc["model", "MSE"]
    np.testing.assert_allclose(seeds, [of.table.loc["model", "MSE"] for of in alone])
    for arm in ("control cells", "perturbation mean", "model"):
        expected = np.mean([of.table.loc[arm, "MAE"] for of in alone])
        assert together.table.loc[arm, "MAE"] == pytest.approx(expected), arm
    assert together.table.loc["perturbation mean", "PDCorr"] == pytest.approx(
        np.mean([of.table.loc["perturbation mean", "PDCorr"] for of in alone])
    )


def test_a_prediction_that_may_have_seen_the_truths_controls_is_named_and_refused_when_strict(noisy, counts, tmp_path):
    split = tmp_path / "split.toml"
    split.write_text('[fewshot.A]\ntest = ["p1", "p2", "p3"]\n[fewshot.B]\ntest = ["p2"]\n')
    strict = {"split": split, "strict": True, "training_conditions": [("B", "p4")], "hvg_from": "given"}
    for made, match in (
        (noisy, "does not say which control cells it was made from"),
        (_with_roles(noisy, controls="shared"), "was made with shared control cells"),
    ):
        found = evaluate(made, counts, controls="independent", **OPTIONS)
        assert any(match in notice for notice in found.notices)
        with pytest.raises(InputError, match=f"--strict was given, but .*{match}"):
            evaluate(made, counts, **strict, **OPTIONS)
        evaluate(made, counts, controls="shared", **strict, **OPTIONS)
    found = evaluate(_with_roles(noisy), counts, controls="independent", **strict, **OPTIONS)
    assert "was made with independent control cells, rotation 0" in found.notices[0]
    assert "The smallest part has 33 cells: target of B." in found.notices[1]


def test_the_cells_that_a_prediction_was_made_from_have_the_input_role(noisy, counts):
    names = counts.obs_names[((counts.obs["gene"] == "ctrl") & (counts.obs["line"] == "A")).to_numpy()]
    roles = ControlRoles(rotation=1)
    made = _with_roles(noisy, rotation=1)
    made.obs["control_cell"] = names[roles.has(names, ControlRole.INPUT)][0]
    evaluate(made, counts, controls="independent", **OPTIONS)
    made.obs["control_cell"] = names[roles.has(names, ControlRole.TRUTH)][0]
    with pytest.raises(InputError, match=r"input cells of rotation 1, but 1 of the 1 cells in obs\['control_cell'\]"):
        evaluate(made, counts, **OPTIONS)
    made.obs["control_cell"] = "elsewhere"
    found = evaluate(made, counts, controls="independent", **OPTIONS)
    assert any("nobody can check their role" in notice for notice in found.notices)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"control_rotation": 2}, "was made with rotation 1 of the control cells, not 2"),
        ({"control_rotation": 3}, "rotation is 3, but it can be 0, 1 or 2"),
        ({"controls": "shared", "control_rotation": 1}, "Shared control cells have no rotation"),
        ({"controls": "apart"}, "can be both, independent or shared"),
    ],
)
def test_divisions_that_cannot_be(noisy, counts, options, match):
    with pytest.raises(InputError, match=match):
        evaluate(_with_roles(noisy, rotation=1), counts, **options, **OPTIONS)


def test_a_context_without_control_cells_of_a_role_is_refused(noisy, counts):
    controls = (counts.obs["gene"] == "ctrl").to_numpy()
    truth = ControlRoles().has(counts.obs_names, ControlRole.TRUTH)
    without = counts[~(controls & truth & (counts.obs["line"] == "B").to_numpy())].copy()
    with pytest.raises(InputError, match=r"context 'B' in .* are too few .* none has the role 'truth'"):
        evaluate(noisy, without, **OPTIONS)
    assert evaluate(noisy, without, controls="shared", **OPTIONS).shared is None
