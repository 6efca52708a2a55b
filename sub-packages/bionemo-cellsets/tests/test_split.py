import json

import numpy as np
import pytest

from bionemo.screens import InputError, Split


@pytest.fixture
def split_file(tmp_path):
    def write(text: str):
        (tmp_path / "split.toml").write_text(text)
        return tmp_path / "split.toml"

    return write


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


def test_states_file_decides_every_run(split_file, store):
    parts = Split.from_toml(split_file(STATE)).assign(store)
    named = {
        (store.contexts[run["context"]], store.perturbations[run["perturbation"]]): part
        for run, part in zip(store.runs, parts.tolist(), strict=True)
    }
    assert named == {
        ("A", "ctrl"): "train",
        ("A", "TP53"): "test",
        ("A", "rare"): "val",
        ("B", "ctrl"): "train",
        ("B", "TP53"): "train",
        ("C.2", "ctrl"): "test",
        ("C.2", "MYC"): "test",
    }


def test_condition_part_needs_no_store(split_file):
    split = Split.from_toml(split_file(STATE))
    assert split.condition_part("A", "TP53") == "test"
    assert split.condition_part("A", "ctrl") == "train"
    assert split.condition_part("C.2", "anything") == "test"
    assert split.condition_part("elsewhere", "TP53") == "train"


def test_dict_and_hash_hold_what_is_held_out(split_file):
    split = Split.from_toml(split_file(STATE))
    again = Split.from_dict(json.loads(json.dumps(split.to_dict())))
    assert again == split
    assert again.hash == split.hash
    without_dataset = (
        STATE.replace("screen.", "").replace('screen = "/data/screen"', "").replace('screen = "train"', "")
    )
    assert Split.from_toml(split_file(without_dataset)).hash == split.hash
    assert Split.from_toml(split_file(STATE.replace("val =", "#"))).hash != split.hash


def test_an_empty_split_trains_on_all(store):
    assert set(Split().assign(store)) == {"train"}


def test_overlap_of_val_and_test_is_test(split_file, store):
    with pytest.warns(UserWarning, match="count as test only"):
        split = Split.from_toml(split_file('[fewshot."A"]\nval = ["TP53", "rare"]\ntest = ["TP53"]'))
    assert split.condition_part("A", "TP53") == "test"
    assert split.condition_part("A", "rare") == "val"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[zero_shot]\n", "section 'zero_shot' .* is not known: did you mean 'zeroshot'"),
        ("zeroshot = 3", "'zeroshot' .* must be a section"),
        ("[zeroshot]\nA = 'train'", '"A" .* must be "val" or "test", not \'train\''),
        ("[training]\nd = 'yes'", '\\[training\\] d .* must be "train"'),
        ("[zeroshot]\nA = 'test'\n[fewshot.A]\nval = ['TP53']", "holds out the context 'A' twice"),
        ("[fewshot.A]\ntests = ['TP53']", "'tests' in .* is not known: did you mean 'test'"),
        ("[fewshot.A]\ntest = 'TP53'", "must be a list of labels"),
        ("[fewshot]\nA = ['TP53']", "must be a section with val and test lists"),
        ("[fewshot", "is not valid TOML"),
        ("[training]\nd = 'train'\n[zeroshot]\n'd.A' = 'test'\nA = 'val'", "names the context 'A' twice"),
    ],
)
def test_wrong_files_are_refused(split_file, text, message):
    with pytest.raises(InputError, match=message):
        Split.from_toml(split_file(text))


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
def test_names_the_store_has_not_are_refused(split_file, store, text, message):
    with pytest.raises(InputError, match=message):
        Split.from_toml(split_file(text)).assign(store)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.toml cannot be read"):
        Split.from_toml(tmp_path / "none.toml")


def test_real_protocol_of_papalexi(real_data, tmp_path, split_file):
    from bionemo.cellsets import prepare

    path = real_data("papalexi_lowmoi_sceptre.h5ad")
    held_out = ["IFNGR1", "JAK2", "STAT1", "IRF1", "CUL3", "BRD4", "SMAD4", "STAT2", "CD86", "ETV7", "UBE2L6", "MARCH8"]
    store = prepare(
        [path], tmp_path / "s", perturbation_key="target", control="non-targeting", context_key="batch", progress=False
    )
    parts = Split.from_toml(split_file(f'[fewshot."rep_3"]\ntest = {held_out}')).assign(store)
    test = store.runs[parts == "test"]
    assert set(store.contexts[test["context"]]) == {"rep_3"}
    assert sorted(store.perturbations[test["perturbation"]]) == sorted(held_out)
    assert np.all(parts[store.is_control] == "train")
