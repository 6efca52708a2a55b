"""Bad input is refused in one sentence that names the thing and the mend."""

import anndata as ad
import numpy as np
import pytest

from bionemo.perteval import evaluate
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
    assert "'gene'" in _refused("no column 'gnee'", perfect, counts, perturbation_key="gnee")


def test_files_that_are_not_there_or_not_h5ad(perfect, counts, tmp_path):
    _refused("does not exist", tmp_path / "none.h5ad", counts)
    (tmp_path / "text.h5ad").write_text("no")
    _refused("cannot be read as h5ad", tmp_path / "text.h5ad", counts)


def test_genes_that_are_missing_are_named(perfect, counts):
    perfect.var_names = ["G_0", "G_1", *perfect.var_names[2:]]
    message = _refused("2 of 120 predicted genes", perfect, counts)
    assert "G_0, G_1" in message


def test_a_gene_twice(perfect, counts):
    perfect.var_names = ["g1", *perfect.var_names[1:]]
    _refused("'g1' occurs more than once", perfect, counts)


def test_conditions_that_were_not_observed(perfect, counts):
    perfect.obs["gene"] = perfect.obs["gene"].astype(str).replace("p1", "p11")
    assert "'p1'" in _refused("'p11' was predicted for context 'A'", perfect, counts)
    perfect.obs["line"] = "Z"
    _refused("Context 'Z' was predicted", perfect, counts)


def test_only_controls(perfect, counts):
    perfect.obs["gene"] = "ctrl"
    _refused("no perturbed cells", perfect, counts)


def test_empty_labels(perfect, counts):
    perfect.obs["gene"] = perfect.obs["gene"].astype(object).where(np.arange(perfect.n_obs) > 2, None)
    _refused("3 empty values", perfect, counts)


def test_context_without_controls(perfect, counts):
    rows = ~((counts.obs["line"] == "B") & (counts.obs["gene"] == "ctrl")).to_numpy()
    _refused("Context 'B' has no control cells", perfect, counts[rows].copy())


def test_one_observed_cell(perfect, counts):
    is_p2 = ((counts.obs["line"] == "B") & (counts.obs["gene"] == "p2")).to_numpy()
    rows = ~is_p2
    rows[np.flatnonzero(is_p2)[0]] = True
    _refused("one cell of 'p2' in context 'B'", perfect, counts[rows].copy())


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
    _refused("no column 'halff'", perfect, counts, context_key="line+halff")
