"""Without validation conditions a trial holds out some training conditions, and a model is then trained on all."""

import json
from pathlib import Path

import pytest
from jobs import pretrain_arguments

SPLIT = """\
[training]
screen = "train"

[fewshot."screen.context_1"]
test = ["perturbation_1"]
"""


@pytest.fixture(scope="module")
def shop(workshop, tmp_path_factory) -> Path:
    """Return a folder with the store, and a split that marks no validation conditions."""
    folder = tmp_path_factory.mktemp("trial")
    (folder / "store").symlink_to(workshop / "store")
    (folder / "split.toml").write_text(SPLIT)
    return folder


@pytest.fixture
def train(shop, command):
    """Train into a run directory, and return what the command said."""

    def run(out: Path, *settings: str) -> str:
        often = "training.validate_every=2", "training.checkpoint_every=2"
        return command(*pretrain_arguments(shop, out, *often, *settings)).stderr

    return run


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_the_trial_chose_is_trained_on_all_conditions(train, tmp_path, devices):
    said = train(tmp_path / "run", "training.max_steps=6", f"compute.devices={devices}")
    assert "marks no validation conditions: a trial holds out" in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    best = json.loads((tmp_path / "run" / "trial" / "best.json").read_text())
    chosen = record["trial"]
    assert (chosen["network_share"], chosen["steps"]) == (best["network_share"], best["step"])
    assert record["model"]["network_share"] == best["network_share"]
    assert record["training"]["max_steps"] == max(best["step"], 3)
    tried = json.loads((tmp_path / "run" / "trial" / "run.json").read_text())
    held_out = {(context, label) for context, labels in chosen["held_out"].items() for label in labels}
    assert len(held_out) >= 4
    for context, label in held_out:
        assert label not in tried["trained"][context]
        assert label in record["trained"][context]
    # The same command finds both done.
    assert "is done" in train(tmp_path / "run", "training.max_steps=6", f"compute.devices={devices}")


def test_a_trial_can_be_left_out(train, tmp_path):
    said = train(tmp_path / "run", "training.max_steps=3", "training.trial=false")
    assert "predictions will be the linear start alone" in said
    assert not (tmp_path / "run" / "trial").exists()
