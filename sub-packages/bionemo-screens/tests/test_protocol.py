"""Protocols are files: what they hold, what their hash is of, and how each mistake in one is refused."""

import hashlib
import json

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


# SHA-256 of the sorted names, computed from the lists that PerturbDiff published (MIT licence).
LISTS = {
    "parse10m-pbmc": (4, 62, "520457a1c0267f33456a939c4d93838c38ffa539251b8c20490dbdd5eb39e7f2"),
    "replogle-nadig": (104, 624, "f875ba4ab463a87e13cce267c0e1a4bc88cd536c1138930cee42934abfb25169"),
    "tahoe100m": (54, 735, "7d6c5f2370a7754268a29023384721c178f5ddf36ebc145e1a9fe9713768dc69"),
}


@pytest.mark.parametrize("name", LISTS)
def test_the_held_out_perturbations_are_the_published_ones(name):
    rule = find_protocol(name).held_out
    names = [sorted(rule.val), sorted(rule.test)]
    digest = hashlib.sha256(json.dumps(names, ensure_ascii=False).encode()).hexdigest()
    assert (*map(len, names), digest) == LISTS[name]
    assert "63afe45a43dc366aae66aacceefcfbb707335820" in rule.listed_in


def test_a_protocol_holds_its_lists_out_of_its_contexts_only():
    parse = find_protocol("parse10m-pbmc")
    measured = ("PBS", "IL-2", "IFN-beta", "unlisted")
    contexts = ("Donor1+B Naive", "Donor12+CD14+ Mono", "Donor2+B Naive")
    observed = [(context, label) for context in contexts for label in measured]
    observed += [("Donor4+rare", "PBS"), ("Donor9+rare", "IL-2")]
    split = parse.split_of(observed)
    both = {"val": {"IFN-beta"}, "test": {"IL-2"}}
    assert split.fewshot == {
        "Donor1+B Naive": both,
        "Donor12+CD14+ Mono": both,
        "Donor9+rare": {"val": set(), "test": {"IL-2"}},
    }
    assert split.hash == parse.split_of(observed[::-1]).hash
    assert split.part("Donor2+B Naive", "IL-2") == split.part("Donor1+B Naive", "unlisted") == "train"


def test_where_a_protocol_lists_nothing_a_split_file_has_to(own):
    lists = '[held_out]\ncolumn = "line"\nlabels = ["A"]\n'
    assert own(lambda text: text.split("[fewshot")[0] + lists).split_of([("A", "p1")]) is None
    assert own().split_of([]).part("A", "p4") == "val"


def test_the_hash_is_of_the_rules_and_not_of_the_file(own):
    one = own()
    assert len(one.hash) == 64
    assert (
        own(lambda text: 'title = "Mine"\n# why\n' + text.replace('["p1", "p2", "p3"]', '["p3", "p1", "p2"]')).hash
        == one.hash
    )
    for old, new in (("10000", "9999"), ('"p4"', '"p5"'), ('"ctrl"', '"DMSO"'), ('"given"', '"all"')):
        assert own(lambda text, old=old, new=new: text.replace(old, new)).hash != one.hash
    lists = '[held_out]\ncolumn = "line"\nlabels = ["A"]\n'

    def listed(text):
        return own(lambda whole: whole.split("[fewshot")[0] + lists + text).hash

    assert listed('listed_in = "there"\ntest = ["p2", "p1"]') == listed('test = ["p1", "p2"]')
    assert listed('test = ["p1"]\nval = ["p2"]') != listed('test = ["p1", "p2"]')


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("target_sum", "target_sun", "'target_sun', which is not known: did you mean 'target_sum'"),
        ('"given"', '"some"', "hvg_from = 'some': use train or all or given"),
        ("10000", '"many"', "target_sum = 'many': give a value of type float"),
        ("10000", "-1", "it must be above 0"),
        ('control = "ctrl"', "", "does not say control"),
        ("[fewshot.A]", '[held_out]\ncolumn = "donor"\nlabels = []\n[fewshot.A]', "'donor', but context_key = 'line'"),
        (
            "[fewshot.A]",
            '[held_out]\ncolumn = "line"\nlabels = []\nval = ["p1", "p2"]\ntest = ["p1"]\n[fewshot.A]',
            "lists 'p1' under val and test",
        ),
        (
            "[fewshot.A]",
            '[held_out]\ncolumn = "line"\nlabels = []\ntest = ["p1"]\n[fewshot.A]',
            r"lists perturbations under \[held_out\] and \[fewshot\]",
        ),
        ("[fewshot.A]", '[held_out]\ncolumn = "line"\nlabels = []\ntest = 2\n[fewshot.A]', "test = 2: give a value of"),
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
