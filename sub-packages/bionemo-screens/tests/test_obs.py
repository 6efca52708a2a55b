"""Obs columns become labels in one way: numbers, joined columns, missing values, look-alikes."""

import numpy as np
import pandas as pd
import pytest

from bionemo.screens import InputError
from bionemo.screens.obs import ObsKey, labels_of, look_alikes, text_of

DOSES = np.array([0.1, 5.0, 1e8], dtype=np.float32)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (DOSES, ["0.1", "5.0", "100000000.0"]),
        (pd.Series(DOSES), ["0.1", "5.0", "100000000.0"]),
        (pd.Series(DOSES, dtype="category"), ["0.1", "5.0", "100000000.0"]),
        (DOSES.astype(np.float64), ["0.10000000149011612", "5.0", "100000000.0"]),
        (np.array([0.1, np.nan]), ["0.1", ""]),
        (pd.array([0.1, None], dtype="Float32"), ["0.1", ""]),
        (pd.array([1, None], dtype="Int64"), ["1", ""]),
        (pd.array([True, None], dtype="boolean"), ["True", ""]),
        (pd.Series(["a", None]), ["a", ""]),
        (pd.Series(["a", None], dtype="category"), ["a", ""]),
        (pd.Series(["a", None], dtype="string"), ["a", ""]),
        (np.array([b"a", "µM".encode()]), ["a", "µM"]),
    ],
)
def test_a_value_is_the_shortest_text_that_gives_it_back(values, text):
    assert text_of(values).tolist() == text


@pytest.fixture
def obs():
    return pd.DataFrame(
        {"drug": ["A", "A", "B"], "dose": np.array([0.1, 5.0, 0.1], np.float32), "line": ["x", "x", "y"]},
        index=["c1", "c2", "c3"],
    )


def test_columns_are_joined(obs):
    assert labels_of(obs, "drug+dose", "f").tolist() == ["A+0.1", "A+5.0", "B+0.1"]
    assert labels_of(obs, "line", "f").tolist() == ["x", "x", "y"]
    whole = obs.assign(**{"drug+dose": ["p", "q", "r"]})
    assert labels_of(whole, "drug+dose", "f").tolist() == ["p", "q", "r"], "a column of the whole name goes first"
    with pytest.raises(InputError, match=r"^f has no obs column 'dos': did you mean 'dose'"):
        labels_of(obs, "drug+dos", "f")


def test_four_columns_of_many_labels_are_joined_without_overflow():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({name: rng.permutation(70_000).astype(str) for name in "abcd"})
    joined = labels_of(obs, "a+b+c+d", "f")
    assert (joined == (obs["a"] + "+" + obs["b"] + "+" + obs["c"] + "+" + obs["d"]).to_numpy()).all()


def test_different_labels_are_not_joined_to_one():
    """Otherwise the cells of ("A+B", "C") and ("A", "B+C") would be one population."""
    obs = pd.DataFrame({"drug": ["A+B", "A"], "other": ["C", "B+C"]}, index=["c1", "c2"])
    message = r"'drug\+other' of f join \('A\+B', 'C'\) and \('A', 'B\+C'\) to the same label 'A\+B\+C': rename"
    with pytest.raises(InputError, match=message):
        labels_of(obs, "drug+other", "f")
    key = ObsKey("drug+other")
    key.join([text_of(obs["drug"][:1]), text_of(obs["other"][:1])], "f")
    with pytest.raises(InputError, match=message):
        key.join([text_of(obs["drug"][1:]), text_of(obs["other"][1:])], "f")


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_a_cell_without_a_label_is_refused_with_count_and_name(obs, blank):
    obs["line"] = ["x", blank, blank]
    for key in ("line", "drug+line"):
        with pytest.raises(InputError) as refused:
            labels_of(obs, key, "f")
        assert str(refused.value) == (
            f"obs column '{key}' of f is empty for 2 cells, the first is 'c2': label these cells or leave them out"
        )


def test_labels_that_look_alike():
    (notice,) = look_alikes(["TP53", "tp53 ", "MYC"], "gene", "f")
    assert notice.startswith("'TP53', 'tp53 ' in obs column 'gene' of f differ only by capitals or blanks")
    assert look_alikes(["ctrl", "TP53"], "gene", "f", control="ctrl") == []
    with pytest.raises(InputError, match=r"^'CTRL', ' ctrl' in obs column 'gene' of f is the control label 'ctrl' but"):
        look_alikes(["CTRL", "TP53", " ctrl", "ctrl"], "gene", "f", control="ctrl")
