"""Expression back to what a cell of its library size can show."""

import numpy as np
import pytest
from scipy import sparse

from bionemo.scale.inference.rounding import CellMaker, CountGrid, CountRounding

TARGET = 10_000.0


def rounded_by(rounding, expression, library):
    """Round what a network answers in the place of control cells."""
    genes, nothing = expression.shape[1], sparse.csr_matrix(expression.shape, dtype=np.float32)
    zeros = np.zeros(genes, np.float32)
    make, grid = CellMaker(genes, np.inf), CountGrid(library, TARGET)
    return make(len(library), nothing, zeros, zeros, expression, 1.0, grid, rounding).toarray()


def round_to_counts(expression, library, rng):
    return rounded_by(CountRounding(expression.shape[1], library, rng), expression, library)


def counts_of(expression: np.ndarray, library: np.ndarray) -> np.ndarray:
    return np.expm1(expression.astype(np.float64)) * np.maximum(library, 1)[:, None] / TARGET


def test_every_value_lies_on_the_grid_of_its_cell():
    rng = np.random.default_rng(0)
    library = np.array([1_000.0, 7_321.0, 25_000.0])
    rounded = round_to_counts(rng.uniform(0, 6, (3, 500)).astype(np.float32), library, rng)
    assert rounded.dtype == np.float32
    counts = counts_of(rounded, library)
    np.testing.assert_allclose(counts, np.rint(counts), atol=2e-3)


def test_rounding_moves_to_a_neighbour_of_the_grid():
    rng = np.random.default_rng(0)
    library = np.full(3, 4_000.0)
    expression = rng.uniform(0, 5, (3, 200)).astype(np.float32)
    moved = counts_of(round_to_counts(expression, library, rng), library) - counts_of(expression, library)
    assert np.abs(moved).max() < 1 + 1e-3


@pytest.mark.parametrize("value", [0.05, 0.4, 1.3, 3.0])
def test_the_mean_over_cells_is_kept(value):
    cells = 40_000
    library = np.random.default_rng(1).integers(2_000, 20_000, cells).astype(float)
    rounded = round_to_counts(np.full((cells, 1), value, np.float32), library, np.random.default_rng(2))
    # Cells have unlike steps, so some noise is left.
    error = rounded.std() / cells**0.5
    assert rounded.mean() == pytest.approx(value, abs=1.5 * error)


def test_a_population_rounded_in_pieces_is_rounded_as_one():
    rng = np.random.default_rng(3)
    expression, library = rng.uniform(0, 3, (50, 40)).astype(np.float32), rng.integers(500, 5_000, 50).astype(float)
    whole = round_to_counts(expression, library, np.random.default_rng(4))
    pieces = CountRounding(40, library, np.random.default_rng(4))
    parts = [rounded_by(pieces, expression[i : i + 16], library[i : i + 16]) for i in range(0, 50, 16)]
    # The running sum is carried on in another order of additions, so a cell in a thousand may differ.
    assert (np.concatenate(parts) == whole).mean() > 0.998


def test_cells_of_a_gene_are_rounded_up_as_often_as_expected():
    library = np.full(60, 4_000.0)
    lower, upper = np.log1p(0.0), np.log1p(TARGET / 4_000.0)
    expression = np.full((60, 500), lower + 0.25 * (upper - lower), np.float32)
    ups = (round_to_counts(expression, library, np.random.default_rng(5)) > 0).sum(0)
    assert ups.min() >= 12
    assert ups.max() <= 18


def test_zeros_and_whole_counts_stay():
    counts = np.tile([0, 1, 2, 5, 40], (3, 1))
    library = np.array([100.0, 5_000.0, 12_345.0])
    expression = np.log1p(counts * (TARGET / library)[:, None]).astype(np.float32)
    for seed in range(20):
        rounded = round_to_counts(expression, library, np.random.default_rng(seed))
        assert (rounded[:, 0] == 0).all()
        np.testing.assert_allclose(rounded, expression, rtol=1e-6)


def test_small_values_become_zeros_again():
    rounded = round_to_counts(np.full((200, 20), 0.1, np.float32), np.full(200, 3_000.0), np.random.default_rng(0))
    assert (rounded == 0).mean() > 0.85


def test_a_cell_without_counts_stays_finite():
    rounded = round_to_counts(np.full((2, 5), 0.5, np.float32), np.zeros(2), np.random.default_rng(0))
    assert np.isfinite(rounded).all()


def test_cells_are_made_as_it_was_asked_for():
    rng = np.random.default_rng(0)
    start = sparse.random(20, 30, 0.3, "csr", np.float32, rng)
    factor, shift = rng.uniform(0, 2, 30).astype(np.float32), rng.uniform(-0.5, 0.5, 30).astype(np.float32)
    change, make = rng.normal(size=(20, 30)).astype(np.float32), CellMaker(30, 0.9)
    moved = start.toarray() * factor + shift
    assert make(20, start, factor, shift, None, 1.0, None, None).toarray() == pytest.approx(
        moved.clip(0, 0.9), abs=1e-6
    )
    expected = (moved + 0.25 * change).clip(0, 0.9)
    cells = make(20, start, factor, shift, change, 0.25, None, None)
    assert cells.toarray() == pytest.approx(expected, abs=1e-6)
    assert cells.nnz == (expected > 0).sum()


def test_every_value_is_rounded_as_the_running_sum_of_its_gene_says():
    rng = np.random.default_rng(3)
    library = np.full(40, 5_000)  # alike, so that all cells are one group
    counts = rng.choice([0.2, 0.9, 1, 1.5, 2.5, 3.2, 4.7, 9, 31.5, 32.4, 700], size=(40, 60))
    expression = np.log1p(counts * TARGET / 5_000).astype(np.float32)
    sums = CountRounding(60, library, np.random.default_rng(7)).passed[0].copy()
    for cell, row in enumerate(round_to_counts(expression, library, np.random.default_rng(7))):
        whole = np.floor(counts[cell] + 1e-6)
        lower, upper = np.log1p(whole * TARGET / 5_000), np.log1p((whole + 1) * TARGET / 5_000)
        sums += np.clip((expression[cell] - lower) / (upper - lower), 0, 1)
        assert row == pytest.approx(np.where(sums >= 1, upper, lower), abs=1e-6)
        sums -= sums >= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["start", "shift", "change"])
def test_what_is_not_finite_makes_no_cells_though_a_ceiling_would_hide_it(value, where):
    start = sparse.csr_matrix(np.ones((2, 3), np.float32))
    factor, shift, change = np.ones(3, np.float32), np.zeros(3, np.float32), np.zeros((2, 3), np.float32)
    {"start": start.data, "shift": shift, "change": change[1]}[where][2] = value
    assert CellMaker(3, 4.0)(2, start, factor, shift, change, 1.0, None, None) is None
    if where != "change":
        assert CellMaker(3, 4.0)(2, start, factor, shift, None, 1.0, None, None) is None
