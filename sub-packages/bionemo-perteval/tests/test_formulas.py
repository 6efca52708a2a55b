"""Every formula that is ours, against an example worked by hand or against the library that defines it."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from bionemo.perteval.metrics import formulas, intervals
from bionemo.perteval.populations.ceiling import spearman_brown
from bionemo.perteval.significance import mann_whitney
from bionemo.perteval.significance.mann_whitney import sort_cells, sort_controls


def _log1p(rng, cells, genes, rate):
    return np.log1p(rng.poisson(rate, (cells, genes)) * rng.lognormal(size=(cells, 1))).astype(np.float32)


@pytest.mark.parametrize("sparse", [True, False])
def test_ranks_equal_scipy(sparse):
    rng = np.random.default_rng(0)
    rate = np.concatenate([np.zeros(2), rng.gamma(0.3, 2.0, 60)])
    controls, cells = _log1p(rng, 70, 62, rate), _log1p(rng, 41, 62, rate * 1.5)
    cells[:, 5], controls[:, 6] = 0.0, 0.0  # one side without expression
    cells[:, 7] = controls[0, 7] = 1.25  # tied with each other and across
    kind = sp.csr_matrix if sparse else np.asarray
    tested = mann_whitney.test(sort_cells(kind(cells)), sort_controls(kind(controls)))
    expected = stats.mannwhitneyu(cells.astype(float), controls.astype(float), axis=0).pvalue
    np.testing.assert_allclose(tested.p_value, np.nan_to_num(expected, nan=1.0), rtol=1e-10)
    np.testing.assert_allclose(tested.moments.mean, cells.mean(axis=0, dtype=float))
    np.testing.assert_allclose(tested.moments.variance, cells.var(axis=0, dtype=float), atol=1e-12)
    np.testing.assert_allclose(tested.moments.zeros, (cells == 0).mean(axis=0))
    higher = np.median(cells, axis=0) > np.median(controls, axis=0)
    assert (tested.z[higher] > 0).all()


def test_few_cells_use_the_exact_distribution():
    rng = np.random.default_rng(1)
    cells, controls = rng.random((4, 20)).astype(np.float32), rng.random((30, 20)).astype(np.float32)
    cells[1, 0] = cells[0, 0]  # tied: no exact distribution
    tested = mann_whitney.test(sort_cells(cells), sort_controls(controls))
    expected = stats.mannwhitneyu(cells.astype(float), controls.astype(float), axis=0, method="exact").pvalue
    np.testing.assert_allclose(tested.p_value[1:], expected[1:], rtol=1e-10)
    assert tested.p_value[0] == pytest.approx(
        stats.mannwhitneyu(cells[:, 0], controls[:, 0], method="asymptotic").pvalue
    )


def test_tests_equal_pdex():
    import anndata as ad
    import pandas as pd
    from pdex import parallel_differential_expression

    rng = np.random.default_rng(2)
    rate = rng.gamma(0.3, 2.0, 40)
    parts = {"c": _log1p(rng, 60, 40, rate), "p": _log1p(rng, 30, 40, rate * 2), "q": _log1p(rng, 35, 40, rate)}
    obs = pd.DataFrame({"g": np.repeat(list(parts), [len(part) for part in parts.values()])}).rename(index=str)
    cells = ad.AnnData(np.concatenate(list(parts.values())).astype(np.float64), obs=obs)
    theirs = parallel_differential_expression(
        cells, reference="c", groupby_key="g", is_log1p=True, low_memory=True, num_threads=1, show_progress=False
    ).set_index(["target", "feature"])
    controls = sort_controls(sp.csr_matrix(parts["c"]))
    tests = [mann_whitney.test(sort_cells(sp.csr_matrix(parts[name])), controls) for name in ("p", "q")]
    ours = {
        "p_value": np.concatenate([tested.p_value for tested in tests]),
        "fdr": mann_whitney.false_discovery_rates(tests).ravel(),
        "fold_change": np.concatenate([tested.fold_change for tested in tests]),
    }
    for column, values in ours.items():
        expected = theirs.loc[[(name, gene) for name in ("p", "q") for gene in cells.var_names], column]
        np.testing.assert_allclose(values, expected, rtol=2e-6, atol=1e-6, err_msg=column)


def test_fold_change_at_zero_means():
    found = mann_whitney.fold_change(np.array([0.0, 0.0, 1.0, np.log(3)]), np.array([0.0, 1.0, 0.0, np.log(2)]))
    assert found == pytest.approx([1.0, 1 / 20, 20.0, 2.0])


def test_correlation_of_shifts():
    observed = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    predicted = np.array([[2.0, 4.0, 6.0], [3.0, 2.0, 4.0], [1e-8, 0.0, 2e-8]])
    found = formulas.correlations(predicted, observed)
    assert found[:2] == pytest.approx([1.0, 0.5])
    assert np.isnan(found[2])  # rounding, not a shift


def test_weighted_error_by_hand():
    # |z| 1, 2, 5 -> 0, 1/4, 1 -> squared 0, 1/16, 1 -> weights 0, 1/17, 16/17; errors 9, 1, 4
    found = formulas.weighted_errors(np.array([[3.0, 1.0, 2.0]]), np.zeros((1, 3)), np.array([[-1.0, 2.0, -5.0]]))
    assert found == pytest.approx([(1 + 16 * 4) / 17])


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_discrimination_by_hand(distance):
    observed = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    predicted = np.array([[2.0, 0.1, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])
    # the first is nearest to its own, the second to the first, the third equally near to all
    nobody = np.full(3, -1)
    assert formulas.discrimination(predicted, observed, nobody, distance) == pytest.approx([1.0, 2 / 3, 2 / 3])


def test_zero_shift_is_at_chance_by_cosine():
    observed = np.eye(5)
    assert formulas.discrimination(np.zeros((5, 5)), observed, np.full(5, -1), "cosine") == pytest.approx([0.6] * 5)


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_discrimination_leaves_the_perturbed_gene_out(distance):
    from sklearn.metrics import pairwise_distances

    rng = np.random.default_rng(3)
    observed, predicted = rng.normal(size=(6, 9)), rng.normal(size=(6, 9))
    own = np.array([0, -1, 4, 8, 2, -1])
    for row, gene in enumerate(own):
        kept = np.arange(9) != gene
        far = pairwise_distances(observed[:, kept], predicted[row : row + 1, kept], metric=distance)[:, 0]
        expected = 1 - (far < far[row]).sum() / 6
        assert formulas.discrimination(predicted, observed, own, distance)[row] == pytest.approx(expected)


def test_spearman_brown():
    assert spearman_brown(np.array([0.5, 1.0, 0.0, -0.3])) == pytest.approx([2 / 3, 1.0, 0.0, -0.3])


def test_means_are_of_contexts():
    values = np.array([[1.0], [3.0], [np.nan], [8.0]])
    assert intervals.means(values, np.array([0, 0, 0, 1])) == pytest.approx([5.0])


def test_bootstrap_covers_the_mean():
    rng = np.random.default_rng(4)
    inside = 0
    for trial in range(100):
        # two levels of noise: 8 contexts of 6 perturbations around a mean of 1
        centres = 1 + rng.normal(size=(8, 1))
        values = (centres + rng.normal(size=(8, 6))).reshape(-1, 1)
        low, high = intervals.bootstrap(values, np.repeat(np.arange(8), 6), seed=trial, draws=300)[:, 0]
        inside += low <= 1 <= high
    assert 83 <= inside <= 99  # percentile intervals of eight contexts are a little short


def test_bootstrap_of_one_context_is_over_perturbations():
    rng = np.random.default_rng(5)
    values = rng.normal(size=(400, 1))
    low, high = intervals.bootstrap(values, np.zeros(400, dtype=int))[:, 0]
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert np.isnan(intervals.bootstrap(values[:1], np.zeros(1, dtype=int))).all()


def test_genes_are_sorted_whatever_their_length():
    from bionemo.perteval.significance.compiled import compiled
    from bionemo.perteval.significance.rank_kernels import sort_genes

    rng = np.random.default_rng(0)
    lengths = [0, 1, 3, 39, 40, 41, 300, 5000]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    values = np.log1p(rng.poisson(2.0, starts[-1]) * rng.lognormal(0.0, 3.0, starts[-1])).astype(np.float32)
    values[::11] = -0.0
    genes = [np.sort(values[starts[i] : starts[i + 1]]) for i in range(len(lengths))]
    compiled(sort_genes)(values, starts)
    for i, gene in enumerate(genes):
        np.testing.assert_array_equal(values[starts[i] : starts[i + 1]], gene)


def test_intervals_of_several_arms_are_those_of_each_alone():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        [(arm, c, f"p{i}", *rng.normal(size=2)) for arm in "xyz" for c in ("A", "B", "C") for i in range(5)],
        columns=["arm", "context", "perturbation", "m", "n"],
    )
    frame.loc[[3, 21, 22, 23, 24, 25], "m"] = np.nan
    together = intervals.intervals(frame, ["m", "n"], seed=1)
    for arm in "xyz":
        alone = intervals.intervals(frame[frame.arm == arm], ["m", "n"], seed=1)
        np.testing.assert_allclose(together.loc[[arm]].to_numpy(), alone.to_numpy(), rtol=1e-12)
    pairs = [("x", "y"), ("z", "y")]
    compared = intervals.compare(frame, pairs, ["m", "n"], seed=1)
    for pair in pairs:
        one = intervals.compare(frame, [pair], ["m", "n"], seed=1)
        np.testing.assert_allclose(compared.loc[[pair[0]]].to_numpy(float), one.to_numpy(float), rtol=1e-12)
