"""Protocols and splits are files, and a report carries their hash."""

import pytest

from bionemo.perteval.rules.protocol import departures
from bionemo.perteval.rules.protocol_files import find_protocol, protocol_names
from bionemo.screens import InputError
from bionemo.screens.split import Split

OWN = """
perturbation_key = "gene"
control = "ctrl"
context_key = "line"
hvg_from = "given"
target_sum = 10000

[fewshot.A]
val = ["p4"]
test = ["p1", "p2", "p3"]
"""


@pytest.fixture
def own(tmp_path):
    """Write a protocol file, changed, and read it."""

    def read(change=lambda text: text):
        path = tmp_path / "own.toml"
        path.write_text(change(OWN))
        return find_protocol(path)

    return read


def test_the_benchmarks():
    assert protocol_names() == ["parse10m-pbmc", "replogle-nadig", "tahoe100m"]
    parse, replogle, tahoe = map(find_protocol, protocol_names())
    assert (parse.context_key, parse.control, tahoe.batch_key) == ("donor+cell_type", "PBS", "plate")
    assert parse.holds_out("Donor1+CD14+ Mono")
    assert not parse.holds_out("Donor11+CD14+ Mono")
    assert replogle.holds_out("HepG2")
    assert not replogle.holds_out("k562")
    assert [p.held_out.labels for p in (tahoe,)] == [("CVCL_1097", "CVCL_1285", "CVCL_1098", "CVCL_0334", "CVCL_0480")]
    assert all("v1" in protocol.published[0].source for protocol in (parse, replogle, tahoe))
    assert len({protocol.hash for protocol in (parse, replogle, tahoe)}) == 3


def test_the_hash_is_of_the_rules_and_not_of_the_file(own):
    one = own()
    assert len(one.hash) == 64
    assert (
        own(lambda text: 'title = "Mine"\n# why\n' + text.replace('["p1", "p2", "p3"]', '["p3", "p1", "p2"]')).hash
        == one.hash
    )
    for old, new in (("10000", "9999"), ('"p4"', '"p5"'), ('"ctrl"', '"DMSO"'), ('"given"', '"all"')):
        assert own(lambda text, old=old, new=new: text.replace(old, new)).hash != one.hash


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("target_sum", "target_sun", "'target_sun', which is not known .*'target_sum'"),
        ('"given"', '"some"', "hvg_from = 'some', but it takes train or all or given"),
        ("10000", '"many"', "target_sum = 'many', but it has to be of type float"),
        ("10000", "-1", "has to be above 0"),
        ('control = "ctrl"', "", "does not say control"),
        ("[fewshot.A]", '[held_out]\ncolumn = "donor"\nlabels = []\n[fewshot.A]', "column = 'donor', which is not in"),
        ("[fewshot.A]", '[[published]]\nmodel = "x"\nsource = "y"\nscores = { PDcor = 1 }\n[fewshot.A]', "'PDcor'.*PDC"),  # noqa: E501
        ("[fewshot.A]", "[fewshot.A", "is not valid TOML"),
        ("val =", "vall =", "'vall' in .* is not known"),
        ('["p4"]', '"p4"', "must be a list of labels"),
    ],
)  # fmt: skip
def test_a_wrong_protocol_file_is_one_sentence(own, old, new, match):
    with pytest.raises(InputError, match=match) as error:
        own(lambda text: text.replace(old, new))
    assert "\n" not in str(error.value)


def test_an_unknown_protocol_names_the_known(tmp_path):
    with pytest.raises(InputError, match=r"no protocol 'tahoe'.*'tahoe100m'"):
        find_protocol("tahoe")
    with pytest.raises(InputError, match="cannot be read"):
        find_protocol(tmp_path / "none.toml")


def test_what_is_not_the_whole_protocol_is_said(own):
    protocol = own()
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
        replogle.check_contexts(["k562"])
