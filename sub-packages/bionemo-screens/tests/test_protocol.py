"""Protocols are files: what they hold, what their hash is of, and how each mistake in one is refused."""

import pytest

from bionemo.screens import InputError
from bionemo.screens.protocol import find_protocol, protocol_names

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
        ("target_sum", "target_sun", "'target_sun', which is not known: did you mean 'target_sum'"),
        ('"given"', '"some"', "hvg_from = 'some': use train or all or given"),
        ("10000", '"many"', "target_sum = 'many': give a value of type float"),
        ("10000", "-1", "it must be above 0"),
        ('control = "ctrl"', "", "does not say control"),
        ("[fewshot.A]", '[held_out]\ncolumn = "donor"\nlabels = []\n[fewshot.A]', "'donor', but context_key = 'line'"),
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
