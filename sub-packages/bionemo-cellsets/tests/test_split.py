"""A store's runs are given the parts of a split."""

import numpy as np
import pytest

from bionemo.screens import Split
from bionemo.screens.controls import ControlRoles, Controls

SHARED = ControlRoles(Controls.SHARED)


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
    parts = store.parts(Split.from_toml(split_file(STATE)), SHARED)
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


@pytest.mark.parametrize("rotation", [0, 1, 2])
def test_control_cells_of_other_roles_are_held_out(store, split_file, rotation):
    split = Split.from_toml(split_file(STATE))
    shared, apart = store.parts(split, SHARED), store.parts(split, ControlRoles(rotation=rotation))
    other = store.is_control & (store.runs["control_part"] != rotation)
    assert other.sum() == 8
    assert set(apart[other]) == {"test"}
    np.testing.assert_array_equal(apart[~other], shared[~other])


def test_real_protocol_of_papalexi(real_data, tmp_path, split_file):
    from bionemo.cellsets import prepare

    path = real_data("papalexi_lowmoi_sceptre.h5ad")
    held_out = ["IFNGR1", "JAK2", "STAT1", "IRF1", "CUL3", "BRD4", "SMAD4", "STAT2", "CD86", "ETV7", "UBE2L6", "MARCH8"]
    store = prepare(
        [path], tmp_path / "s", perturbation_key="target", control="non-targeting", context_key="batch", progress=False
    )
    parts = store.parts(Split.from_toml(split_file(f'[fewshot."rep_3"]\ntest = {held_out}')), SHARED)
    test = store.runs[parts == "test"]
    assert set(store.contexts[test["context"]]) == {"rep_3"}
    assert sorted(store.perturbations[test["perturbation"]]) == sorted(held_out)
    assert np.all(parts[store.is_control] == "train")
