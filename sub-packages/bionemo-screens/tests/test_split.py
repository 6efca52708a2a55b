"""Split files: what they hold out, and how each mistake in one is refused."""

import json

import pytest

from bionemo.screens import InputError, Split

OBSERVED = [("A", "ctrl"), ("A", "TP53"), ("A", "rare"), ("B", "ctrl"), ("B", "TP53"), ("C.2", "ctrl"), ("C.2", "MYC")]
STATE = """
[datasets]
screen = "/data/screen"
[training]
screen = "train"
[zeroshot]
"screen.C.2" = "test"
[fewshot]
[fewshot."screen.A"]
val = ["rare"]
test = ["TP53"]
"""


@pytest.fixture
def read(tmp_path):
    """Write a split file and read it."""

    def write(text: str) -> Split:
        (tmp_path / "split.toml").write_text(text)
        return Split.from_toml(str(tmp_path / "split.toml"))

    return write


def test_states_file_decides_every_condition(read):
    parts = read(STATE).parts(*zip(*OBSERVED, strict=True), control="ctrl")
    assert parts.tolist() == ["train", "test", "val", "train", "train", "test", "test"]
    assert read(STATE).held_out(OBSERVED, "ctrl") == {("A", "TP53"), ("A", "rare"), ("C.2", "MYC")}
    assert set(Split().parts(*zip(*OBSERVED, strict=True), control="ctrl")) == {"train"}


def test_the_part_of_a_condition_needs_no_screen(read):
    split = read(STATE)
    assert split.part("A", "TP53") == "test"
    assert split.part("A", "ctrl") == "train"
    assert split.part("C.2", "anything") == "test"
    assert split.part("elsewhere", "TP53") == "train"


def test_dict_hash_and_file_hold_what_is_held_out(read):
    split = read(STATE)
    again = Split.from_dict(json.loads(json.dumps(split.to_dict())))
    assert again == split
    assert again.hash == split.hash
    assert read(split.to_toml('my "screen"', "a comment")) == split
    without_dataset = (
        STATE.replace("screen.", "").replace('screen = "/data/screen"', "").replace('screen = "train"', "")
    )
    assert read(without_dataset).hash == split.hash
    assert read(STATE.replace('["rare"]', "[]")).hash == read(STATE.replace("val =", "#")).hash != split.hash


def test_a_label_under_val_and_test_is_a_test_condition_and_it_is_said(read, caplog):
    split = read('[fewshot."A"]\nval = ["TP53", "rare"]\ntest = ["TP53"]')
    assert "lists ['TP53'] under val and test: they count as test only" in caplog.text
    assert [split.part("A", label) for label in ("TP53", "rare")] == ["test", "val"]
    assert split.fewshot["A"]["val"] == {"rare"}


def test_the_longest_dataset_is_the_prefix(read):
    split = read('[training]\ndata = "train"\n"data.2" = "train"\n[zeroshot]\n"data.2.K562.b" = "test"')
    assert split.zeroshot == {"K562.b": "test"}


@pytest.mark.parametrize(
    "text",
    [
        "[training]\na = 'train'\nb = 'train'\n[fewshot.'a.K562']\ntest = ['x']\n[fewshot.'b.K562']\ntest = ['y']",
        "[training]\na = 'train'\n[fewshot.'a.K562']\ntest = ['x']\n[fewshot.K562]\ntest = ['y']",
        "[training]\na = 'train'\n[zeroshot]\n'a.K562' = 'test'\nK562 = 'val'",
        "[training]\na = 'train'\n[zeroshot]\n'a.K562' = 'val'\n[fewshot.K562]\ntest = ['y']",
    ],
)
def test_two_keys_of_one_context_lose_nothing_they_are_refused(read, text):
    """The second entry would take the place of the first, whose conditions nobody would hold out any more."""
    with pytest.raises(InputError, match=r"""the context 'K562' twice, as "a\.K562" and "(b\.)?K562": put all"""):
        read(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[zero_shot]\n", "section 'zero_shot' .* is not known: did you mean 'zeroshot'"),
        ("zeroshot = 3", "'zeroshot' .* must be a section"),
        ("[zeroshot]\nA = 'train'", '"A" .* must be "val" or "test", not \'train\''),
        ("[training]\nd = 'yes'", '\\[training\\] d .* must be "train"'),
        ("[fewshot.A]\ntests = ['TP53']", "'tests' in .* is not known: did you mean 'test'"),
        ("[fewshot.A]\ntest = 'TP53'", "must be a list of labels"),
        ("[fewshot]\nA = ['TP53']", "must be a section with val and test lists"),
        ("[fewshot", "is not valid TOML"),
    ],
)
def test_wrong_files_are_refused(read, text, message):
    with pytest.raises(InputError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[zeroshot]\na = 'test'", "unknown context 'a': did you mean 'A'"),
        ("[zeroshot]\n'd.A' = 'test'", "whose prefix 'd' is no dataset"),
        ("[fewshot.A]\ntest = ['TP35']", "'TP35' that context 'A' does not have: did you mean 'TP53'"),
        ("[fewshot.B]\ntest = ['MYC']", "'MYC' that context 'B' does not have: use one of 'TP53'"),
        ("[fewshot.A]\ntest = ['ctrl']", "holds out the control label 'ctrl'"),
    ],
)
def test_names_the_screen_has_not_are_refused(read, text, message):
    split = read(text)
    with pytest.raises(InputError, match=message):
        split.held_out(OBSERVED, "ctrl")
    with pytest.raises(InputError, match=message):
        split.parts(*zip(*OBSERVED, strict=True), control="ctrl")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.toml cannot be read"):
        Split.from_toml(tmp_path / "none.toml")
