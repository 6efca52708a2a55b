"""Expression back to what a cell of its library size can show."""

import numpy as np
import pytest

from bionemo.scale.inference.rounding import CountRounding

TARGET = 10_000.0


def round_to_counts(expression, library, target_sum, rng):
    return CountRounding(expression.shape[1], library, target_sum, rng)(expression, library).toarray()


def counts_of(expression: np.ndarray, library: np.ndarray) -> np.ndarray:
    return np.expm1(expression.astype(np.float64)) * np.maximum(library, 1)[:, None] / TARGET


def test_every_value_lies_on_the_grid_of_its_cell():
    rng = np.random.default_rng(0)
    library = np.array([1_000.0, 7_321.0, 25_000.0])
    rounded = round_to_counts(rng.uniform(0, 6, (3, 500)).astype(np.float32), library, TARGET, rng)
    assert rounded.dtype == np.float32
    counts = counts_of(rounded, library)
    np.testing.assert_allclose(counts, np.rint(counts), atol=2e-3)


def test_rounding_moves_to_a_neighbour_of_the_grid():
    rng = np.random.default_rng(0)
    library = np.full(3, 4_000.0)
    expression = rng.uniform(0, 5, (3, 200)).astype(np.float32)
    moved = counts_of(round_to_counts(expression, library, TARGET, rng), library) - counts_of(expression, library)
    assert np.abs(moved).max() < 1 + 1e-3


@pytest.mark.parametrize("value", [0.05, 0.4, 1.3, 3.0])
def test_the_mean_over_cells_is_kept(value):
    cells = 40_000
    library = np.random.default_rng(1).integers(2_000, 20_000, cells).astype(float)
    rounded = round_to_counts(np.full((cells, 1), value, np.float32), library, TARGET, np.random.default_rng(2))
    # Cells have unlike steps, so some noise is left.
    error = rounded.std() / cells**0.5
    assert rounded.mean() == pytest.approx(value, abs=1.5 * error)


def test_a_population_rounded_in_pieces_is_rounded_as_one():
    rng = np.random.default_rng(3)
    expression, library = rng.uniform(0, 3, (50, 40)).astype(np.float32), rng.integers(500, 5_000, 50).astype(float)
    whole = round_to_counts(expression, library, TARGET, np.random.default_rng(4))
    pieces = CountRounding(40, library, TARGET, np.random.default_rng(4))
    parts = [pieces(expression[i : i + 16], library[i : i + 16]).toarray() for i in range(0, 50, 16)]
    # The running sum is carried on in another order of additions, so a cell in a thousand may differ.
    assert (np.concatenate(parts) == whole).mean() > 0.998


def test_cells_of_a_gene_are_rounded_up_as_often_as_expected():
    library = np.full(60, 4_000.0)
    lower, upper = np.log1p(0.0), np.log1p(TARGET / 4_000.0)
    expression = np.full((60, 500), lower + 0.25 * (upper - lower), np.float32)
    ups = (round_to_counts(expression, library, TARGET, np.random.default_rng(5)) > 0).sum(0)
    assert ups.min() >= 12
    assert ups.max() <= 18


def test_zeros_and_whole_counts_stay():
    counts = np.tile([0, 1, 2, 5, 40], (3, 1))
    library = np.array([100.0, 5_000.0, 12_345.0])
    expression = np.log1p(counts * (TARGET / library)[:, None]).astype(np.float32)
    for seed in range(20):
        rounded = round_to_counts(expression, library, TARGET, np.random.default_rng(seed))
        assert (rounded[:, 0] == 0).all()
        np.testing.assert_allclose(rounded, expression, rtol=1e-6)


def test_small_values_become_zeros_again():
    rounded = round_to_counts(
        np.full((200, 20), 0.1, np.float32), np.full(200, 3_000.0), TARGET, np.random.default_rng(0)
    )
    assert (rounded == 0).mean() > 0.85


def test_a_cell_without_counts_stays_finite():
    rounded = round_to_counts(np.full((2, 5), 0.5, np.float32), np.zeros(2), TARGET, np.random.default_rng(0))
    assert np.isfinite(rounded).all()
