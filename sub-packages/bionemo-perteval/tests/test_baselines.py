"""Baselines follow their formulas and touch nothing that is scored or held out."""

import anndata as ad
import numpy as np
import pytest
from scipy import stats

from bionemo.perteval import BASELINES, evaluate
from bionemo.perteval.inputs.alignment import align, hold_out, training_notes
from bionemo.perteval.inputs.divisions import SHARED
from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile
from bionemo.perteval.inputs.screen import generator, mean_cell
from bionemo.perteval.populations.baselines import Request
from bionemo.perteval.populations.ceiling import Sums, interpolated_duplicate, split_halves
from bionemo.perteval.populations.estimates import Estimates
from bionemo.perteval.populations.rounding import round_to_counts
from bionemo.perteval.populations.views import View
from bionemo.screens.controls import ControlRole, ControlRoles

KEYS = Keys(perturbation_key="gene", context_key="line", control="ctrl", target_sum=1e4, layer=None)


_KEYWORDS = {"perturbation_key": "gene", "context_key": "line", "control": "ctrl", "target_sum": 1e4}


def _log1p_of(cells):
    from bionemo.screens.simulation import log1p_of

    return log1p_of(cells)


def _screen(prediction, counts, held_out=()):
    files = [CellFile(arm="prediction", cells=prediction, name="mine")]
    return hold_out(align(files, CellFile(cells=counts, name="observed"), KEYS), held_out)


@pytest.fixture(scope="module")
def screen(noisy, counts):
    return _screen(noisy, counts, held_out=[("C", "p1")])


def _view(screen, context, roles=SHARED):
    return View.of(screen, Estimates(screen), context, roles)


def _mean(cells, context, gene):
    rows = ((cells.obs["line"] == context) & (cells.obs["gene"] == gene)).to_numpy()
    return np.asarray(cells.X[rows].mean(axis=0, dtype=np.float64)).ravel()


def test_training_is_what_is_neither_scored_nor_held_out(screen):
    assert set(screen.training) == {
        ("A", "p4"), ("A", "p5"), ("B", "p1"), ("B", "p3"), ("B", "p4"), ("C", "p2"), ("C", "p3"), ("C", "p4"),
    }  # fmt: skip
    assert any(
        "8 observed conditions" in note and "1 further held-out" in note
        for note in training_notes(screen, [("C", "p1")])
    )


def test_transferred_delta_by_hand(screen, log1p):
    def delta(context, gene):
        return _mean(log1p, context, gene) - _mean(log1p, context, "ctrl")

    np.testing.assert_allclose(Estimates(screen).transferred_delta("A", "p1"), delta("B", "p1"), atol=1e-5)
    both = (delta("B", "p3") + delta("C", "p3")) / 2
    np.testing.assert_allclose(Estimates(screen).transferred_delta("A", "p3"), both, atol=1e-5)
    np.testing.assert_allclose(Estimates(screen).perturbation_mean("A", "p2"), _mean(log1p, "C", "p2"), atol=1e-5)


def test_unknown_perturbation_gets_the_mean_delta_and_a_note(noisy, counts, log1p):
    only = noisy[((noisy.obs["line"] == "A") & (noisy.obs["gene"] == "p1")).to_numpy()].copy()
    held_out = [("B", "p1"), ("C", "p1")]
    screen = _screen(only, counts, held_out)
    contexts = {"A": ["p2", "p3", "p4", "p5"], "B": ["p2", "p3", "p4"], "C": ["p2", "p3", "p4"]}
    expected = np.mean(
        [
            np.mean([_mean(log1p, context, gene) for gene in genes], axis=0) - _mean(log1p, context, "ctrl")
            for context, genes in contexts.items()
        ],
        axis=0,
    )
    np.testing.assert_allclose(Estimates(screen).transferred_delta("A", "p1"), expected, atol=1e-5)
    notes = evaluate(only, counts, held_out=held_out, arms="main", threads=1, progress=False).notes
    assert any("No training context has p1" in note for note in notes)


def test_linear_delta_is_the_ridge_solution(screen):
    from sklearn.linear_model import Ridge

    conditions = list(screen.training)
    levels = sorted({c for c, _ in conditions}) + sorted({p for _, p in conditions})
    design = np.array([[float(level in condition) for level in levels] for condition in conditions])
    deltas = np.stack([screen.mean(context, name) - screen.mean(context, "ctrl") for context, name in conditions])
    ridge = Ridge(alpha=0.1).fit(design, deltas)
    for context, name in (("A", "p1"), ("B", "p2"), ("A", "unknown")):
        asked = np.array([[float(level in (context, name)) for level in levels]])
        found = Estimates(screen).linear_delta(context, name)
        np.testing.assert_allclose(found, ridge.predict(asked)[0], atol=1e-8)


@pytest.mark.parametrize("context", ["A", "C"])
def test_estimates_with_other_controls_are_those_of_a_screen_that_has_them(screen, context):
    rows = screen.rows[context, "ctrl"][::3]
    fresh = Estimates(screen.with_controls(context, rows))
    shared = Estimates(screen).with_controls(context, mean_cell(screen.observed[rows]))
    for asked in ((context, "p2"), ("B", "p4"), ("B", "unknown"), ("unknown", "p1")):
        for name in ("mean_delta", "transferred_delta", "linear_delta", "context_mean"):
            np.testing.assert_allclose(getattr(shared, name)(*asked), getattr(fresh, name)(*asked), atol=1e-12)
    changed = Estimates(screen).linear_delta("B", "p4") - shared.linear_delta("B", "p4")
    assert np.abs(changed).max() > 1e-3


def test_context_and_mean_baselines_by_hand(screen, log1p):
    estimates = Estimates(screen)
    both = (_mean(log1p, "A", "p4") + _mean(log1p, "A", "p5")) / 2
    np.testing.assert_allclose(estimates.context_mean("A", "p1"), both, atol=1e-5)
    np.testing.assert_allclose(estimates.perturbed_reference("A"), both, atol=1e-5)
    names = {"A": ["p4", "p5"], "B": ["p1", "p3", "p4"], "C": ["p2", "p3", "p4"]}
    delta = [np.mean([_mean(log1p, c, g) - _mean(log1p, c, "ctrl") for g in names[c]], axis=0) for c in names]
    np.testing.assert_allclose(estimates.mean_delta("A", "p1"), np.mean(delta, axis=0), atol=1e-5)


@pytest.mark.parametrize("arm", [name for name, arm in BASELINES.items() if not arm.needs_factors])
def test_every_baseline_is_a_population_on_the_scale(screen, arm):
    cells = BASELINES[arm].draw(Request(_view(screen, "A"), "p2", generator(0, "x")))
    dense = cells if isinstance(cells, np.ndarray) else cells.toarray()
    assert dense.shape == (screen.rows["A", "p2"].size, 120)
    assert dense.dtype == np.float32
    assert np.isfinite(dense).all()
    assert 0 <= dense.min() < dense.max() < 15
    tiled = dense.std(axis=0).max() < 1e-5
    assert tiled == (arm.split(" + ")[0] in ("control mean", "perturbation mean", "context mean", "true mean"))


def test_resampled_cells_come_from_where_they_say(screen):
    def sources(arm, context, name):
        cells = BASELINES[arm].draw(Request(_view(screen, context), name, generator(0, "x"))).toarray()
        wanted = {row.tobytes() for row in cells}
        return {c for c in screen.rows if wanted & {row.tobytes() for row in screen.cells(*c).toarray()}}

    assert sources("perturbation cells", "A", "p3") == {("B", "p3"), ("C", "p3")}
    assert sources("context cells", "A", "p3") == {("A", "p4"), ("A", "p5")}
    assert sources("control cells", "A", "p3") == {("A", "ctrl")}


def test_independent_controls_are_disjoint_and_remove_the_shared_error(counts):
    """Labels without any effect: shifts correlate through the shared control mean, but not through its parts."""
    rng = np.random.default_rng(5)
    control = counts[(counts.obs["gene"] == "ctrl").to_numpy() & (counts.obs["line"] == "A").to_numpy()]
    cells = control[rng.integers(control.n_obs, size=600)].copy()
    cells.obs_names_make_unique()
    cells.obs["gene"] = ["ctrl"] * 30 + [f"p{i % 19:02d}" for i in range(570)]
    found = evaluate(_log1p_of(cells[30:]), cells, **_KEYWORDS, arms="main", threads=1, progress=False)
    assert found.shared.table.loc["split halves", "PDCorr"] > 0.3
    assert abs(found.table.loc["split halves", "PDCorr"]) < 0.15
    assert found.noise["A"] > 0.8


def test_a_view_knows_only_the_input_cells_of_its_context(screen, log1p):
    roles = ControlRoles(rotation=1)
    view = _view(screen, "A", roles)
    assert not set(view.known) & set(view.truth)
    parts = {
        role: log1p[(log1p.obs["gene"] == "ctrl").to_numpy() & roles.has(log1p.obs_names, role)]
        for role in (ControlRole.INPUT, ControlRole.TRUTH)
    }
    known, truth = (_mean(parts[role], "A", "ctrl") for role in (ControlRole.INPUT, ControlRole.TRUTH))
    np.testing.assert_allclose(view.screen.mean("A", "ctrl"), known, atol=1e-5)
    np.testing.assert_allclose(view.true_delta("p2"), _mean(log1p, "A", "p2") - truth, atol=1e-5)
    here, elsewhere = _mean(log1p, "A", "p4") - known, _mean(log1p, "B", "p4") - _mean(log1p, "B", "ctrl")
    there = _mean(log1p, "C", "p4") - _mean(log1p, "C", "ctrl")
    np.testing.assert_allclose(
        view.estimates.transferred_delta("A", "p4"), (here + elsewhere + there) / 3, atol=1e-5
    )  # fmt: skip
    drawn = BASELINES["control cells"].draw(Request(view, "p2", generator(0, "x"))).toarray()
    assert {row.tobytes() for row in drawn} <= {row.tobytes() for row in screen.observed[view.known].toarray()}
    oracle = BASELINES["control cells + true delta"].draw(Request(view, "p2", generator(0, "x")))
    assert oracle.shape == drawn.shape


def test_related_delta_is_of_the_contexts_that_share_most_columns(noisy, counts, log1p):
    """Lines A and B are of one tissue, C of another: what p1 does in A is read off B where B has it, else off C."""
    tissue = {"A": "x", "B": "x", "C": "y"}
    for cells in (noisy := noisy.copy(), counts := counts.copy()):
        cells.obs["tissue"] = cells.obs["line"].astype(str).map(tissue)
        cells.uns = {}
    alone = noisy[((noisy.obs["line"] == "A") & (noisy.obs["gene"] == "p1")).to_numpy()].copy()
    found = evaluate(alone, counts, **{**_KEYWORDS, "context_key": "line+tissue"}, threads=1, progress=False)
    assert {"control cells + related delta", "control mean + related delta"} <= set(found.arms)
    keys = Keys(perturbation_key="gene", context_key="line+tissue", control="ctrl", target_sum=1e4, layer=None)
    files = [CellFile(arm="prediction", cells=alone, name="mine")]
    whole = align(files, CellFile(cells=counts, name="observed"), keys)

    def delta(line):
        return _mean(log1p, line, "p1") - _mean(log1p, line, "ctrl")

    np.testing.assert_allclose(Estimates(whole).related_delta("A+x", "p1"), delta("B"), atol=1e-5)
    without = Estimates(hold_out(whole, [("B+x", "p1")]))
    np.testing.assert_allclose(without.related_delta("A+x", "p1"), delta("C"), atol=1e-5)


def test_contexts_of_one_column_have_no_related_delta(screen):
    assert not [name for name, baseline in BASELINES.items() if baseline.needs_factors and baseline.exists_for(screen)]


def test_shifted_controls_have_the_shifted_mean(screen):
    arm = BASELINES["control cells + transferred delta"]
    cells = arm.draw(Request(_view(screen, "A"), "p2", generator(0, "x")))
    assert cells.shape == (screen.rows["A", "p2"].size, 120)
    assert cells.min() >= 0
    free = Estimates(screen).transferred_delta("A", "p2") > 0  # not clipped
    controls = screen.control_cells("A").toarray()[:, free]
    error = controls.std(axis=0) / np.sqrt(cells.shape[0])
    shift = cells[:, free].mean(axis=0) - controls.mean(axis=0) - Estimates(screen).transferred_delta("A", "p2")[free]
    assert np.abs(shift / error).max() < 5


def test_rounding_keeps_the_mean_and_gives_whole_counts():
    rng = np.random.default_rng(0)
    library = rng.integers(500, 2000, 4).astype(float)
    values = rng.gamma(1.0, 1.0, (4, 30))
    draws = np.stack([round_to_counts(values, library, 1e4, rng) for _ in range(4000)])
    counts = np.expm1(draws) * library[:, None] / 1e4
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-6)
    error = np.maximum(draws.std(axis=0), 1e-9) / np.sqrt(4000)
    assert np.abs((draws.mean(axis=0) - values) / error).max() < 5


def test_rounding_leaves_whole_counts_alone():
    library = np.array([700.0, 1300.0])
    whole = np.log1p(np.arange(10) * (1e4 / library)[:, None])
    for seed in range(20):
        np.testing.assert_allclose(round_to_counts(whole, library, 1e4, np.random.default_rng(seed)), whole, atol=1e-9)


def test_split_halves_are_disjoint_and_equal(screen):
    def cells(seed):
        return [{row.tobytes() for row in half.toarray()} for half in split_halves(screen, "A", "p1", seed)]

    first, second = cells(0)
    n = screen.rows["A", "p1"].size
    assert len(first) == len(second) == n // 2
    assert not first & second
    assert first | second <= {row.tobytes() for row in screen.cells("A", "p1").toarray()}
    assert cells(1)[0] != first


def test_interpolated_means_by_hand(screen):
    perturbed = Sums.of_perturbed(screen, "A")
    duplicate, truth = interpolated_duplicate(screen, "A", "p1", 0, perturbed)
    half, other = split_halves(screen, "A", "p1", 0)
    assert (truth != other).nnz == 0
    one = half.toarray().astype(np.float64)
    others = np.concatenate([screen.cells("A", f"p{i}").toarray() for i in range(2, 6)]).astype(np.float64)
    test = stats.ttest_ind_from_stats(
        one.mean(0), one.std(0, ddof=1), len(one), others.mean(0), others.std(0, ddof=1), len(one), equal_var=False
    )
    rate = stats.false_discovery_control(np.nan_to_num(test.pvalue, nan=1.0))
    expected = np.where(one.mean(0) > 0, (1 - rate) * one.mean(0) + rate * others.mean(0), 0.0)
    assert 0.05 < rate.mean() < 0.95
    np.testing.assert_allclose(duplicate.toarray().mean(0, dtype=np.float64), expected, atol=1e-5)
    assert ((duplicate > 0) != (half > 0)).nnz == 0


def test_without_training_conditions_only_control_cells_remain(noisy, counts):
    rows = counts.obs["gene"].eq("ctrl").to_numpy()
    pairs = set(zip(noisy.obs["line"], noisy.obs["gene"], strict=True))
    rows |= np.array([pair in pairs for pair in zip(counts.obs["line"], counts.obs["gene"], strict=True)])
    evaluation = evaluate(noisy, counts[rows].copy(), arms="main", threads=1, progress=False)
    assert list(evaluation.table.index) == ["prediction", "control cells", "split halves"]
    assert any("give the whole screen" in note for note in evaluation.notes)


def test_library_is_over_all_genes_of_the_file(noisy, counts):
    panel = noisy[:, :60].copy()
    screen = _screen(panel, counts)
    whole = _screen(noisy, counts)
    assert isinstance(panel, ad.AnnData)
    cells = np.arange(counts.n_obs)
    np.testing.assert_array_equal(screen.observed[cells].toarray(), whole.observed[cells].toarray()[:, :60])
