"""What an evaluation lacks of its protocol is said."""

import pytest

from bionemo.perteval.rules.departures import departures, drawn_departures
from bionemo.perteval.rules.ruleset import Ruleset, _check_contexts
from bionemo.screens import InputError, Split
from bionemo.screens.drawn_split import draw_split
from bionemo.screens.protocol import find_protocol

OWN = """
perturbation_key = "gene"
control = "ctrl"
context_key = "line"
hvg_from = "given"

[fewshot.A]
val = ["p4"]
test = ["p1", "p2", "p3"]
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    return tmp_path / "own.toml"


def test_published_scores_are_of_metrics_that_there_are(own):
    assert Ruleset.read(own, None, pairs=(), strict=False).protocol.name == "own"
    own.write_text(OWN + '[[published]]\nmodel = "x"\nsource = "y"\nscores = { PDcor = 1 }\n')
    with pytest.raises(InputError, match="'own' names the metric 'PDcor': did you mean 'PDCorr'"):
        Ruleset.read(own, None, pairs=(), strict=False)


def test_what_is_not_the_whole_protocol_is_said(own):
    protocol = find_protocol(own)
    observed = [("A", name) for name in ("ctrl", "p1", "p2", "p3", "p4", "p5")]
    test = [("A", "p1"), ("A", "p2"), ("A", "p3")]
    assert departures(protocol, test, protocol.split, observed) == []
    assert departures(protocol, test[:1], protocol.split, observed) == [
        "2 of 3 observed test conditions have no prediction"
    ]
    replogle = find_protocol("replogle-nadig")
    assert "STATE models for Replogle-Nadig" in departures(replogle, [("hepg2", "AARS")], None, observed)[0]
    split = Split.from_dict({"fewshot": {"hepg2": {"test": ["AARS"]}}}, "x")
    found = departures(replogle, [("hepg2", "AARS")], split, [("hepg2", "AARS"), ("hepg2", "non-targeting")])
    assert found == [
        "the split lists 0 val perturbations in hepg2 and not 104",
        "the split lists 1 test perturbations in hepg2 and not 624",
    ]
    with pytest.raises(InputError, match="'k562' is scored, but the protocol 'replogle-nadig' holds out only hepg2"):
        _check_contexts(replogle, ["k562"])


def test_a_drawn_split_is_not_the_published_one():
    protocol = find_protocol("replogle-nadig")
    observed = [("HepG2", name) for name in ("non-targeting", *(f"GENE{i}" for i in range(800)))]
    split = draw_split(protocol, observed)
    tested = [condition for condition in observed if split.part(*condition) == "test"]
    assert departures(protocol, tested, split, observed) == []
    (said,) = drawn_departures(protocol, split, observed)
    assert "not the published ones" in said
    a_list = Split(fewshot={"HepG2": {"test": frozenset({"GENE1"})}})
    assert drawn_departures(protocol, a_list, observed) == []
