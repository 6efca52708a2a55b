"""What perturbation labels say."""

import pytest

from bionemo.screens.errors import InputError
from bionemo.screens.labels import Treatment, parse_label, parse_labels


@pytest.mark.parametrize(
    ("label", "treatments"),
    [
        ("TP53", [("TP53", None, "")]),
        ("TP53+MYC", [("TP53", None, ""), ("MYC", None, "")]),
        ("TP53+ctrl", [("TP53", None, "")]),
        ("CD4+", [("CD4+", None, "")]),
        ("drug+0.5", [("drug", 0.5, "")]),
        ("drug+500nM", [("drug", 0.5, "uM")]),
        ("drug+5mg/ml+other+0.1mg/ml", [("drug", 5.0, "mg/ml"), ("other", 0.1, "mg/ml")]),
        ("[('drug', 0.05, 'uM')]", [("drug", 0.05, "uM")]),
        ("[('a+b', 2.0, 'mM'), ('c', 1, 'uM')]", [("a+b", 2000.0, "uM"), ("c", 1.0, "uM")]),
        ("[('drug', 0.05]", [("[('drug', 0.05]", None, "")]),
        ("ctrl", [("ctrl", None, "")]),
    ],
)
def test_labels_are_taken_apart(label, treatments):
    assert parse_label(label, "+", "ctrl") == tuple(Treatment(*treatment) for treatment in treatments)


def test_labels_stay_whole_without_a_separator():
    assert parse_label("TP53+MYC", "", "ctrl") == (Treatment("TP53+MYC"),)


def test_a_dose_of_zero_is_refused():
    with pytest.raises(InputError, match=r"dose 0.*control label 'ctrl'"):
        parse_label("drug+0uM", "+", "ctrl")


def test_a_name_that_contains_the_separator_is_no_combination():
    parsed = parse_labels(["ctrl", "A", "A+B", "CD3+CD28", "C+D", "D+E"], "+", "ctrl")
    names = {label: [treatment.name for treatment in treatments] for label, treatments in parsed.items()}
    assert names["A+B"] == ["A", "B"]
    assert names["CD3+CD28"] == ["CD3+CD28"]
    assert names["C+D"] == ["C", "D"]
