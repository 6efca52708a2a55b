"""What an evaluation lacks of its protocol is said."""

import pytest

from bionemo.perteval.rules.departures import departures
from bionemo.perteval.rules.ruleset import Ruleset, _check_contexts
from bionemo.screens import InputError, Split
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
    assert departures(protocol, test, None, observed) == ["no split file says which perturbations are held out"]


def test_what_differs_from_the_published_lists_is_said():
    replogle = find_protocol("replogle-nadig")
    rule = replogle.held_out
    observed = [(line, name) for line in ("HepG2", "k562") for name in ("non-targeting", "other", *rule.listed)]
    test = [("HepG2", name) for name in rule.test]
    assert departures(replogle, test, replogle.split_of(observed), observed) == []
    split = Split.from_dict({"fewshot": {"HepG2": {"test": ["AARS2", "other"]}}}, "x")
    assert departures(replogle, [*test, ("HepG2", "other")], split, observed) == [
        "the split places 728 observed conditions in another part than the protocol's lists"
    ]
    few = [("HepG2", name) for name in ("non-targeting", "AARS2")]
    assert departures(replogle, few[1:], replogle.split_of(few), few) == [
        "727 of 728 listed perturbations have no cells in a held-out context"
    ]
    with pytest.raises(InputError, match="'k562' is scored, but the protocol 'replogle-nadig' holds out only hepg2"):
        _check_contexts(replogle, ["k562"])


def test_without_a_split_file_the_protocols_lists_are_held_out():
    rules = Ruleset.read("replogle-nadig", None, pairs=(), strict=False)
    observed = [(line, name) for line in ("hepg2", "k562") for name in ("non-targeting", "AARS2", "SMN2", "other")]
    assert rules.held_out(observed, "non-targeting") == {("hepg2", "AARS2"), ("hepg2", "SMN2")}
