"""A measurement of training goes to a directory of its own."""

from dataclasses import replace

import pytest

from bionemo.scale.config.presets import PRETRAINING
from bionemo.scale.training.throughput import SimulatedScreen, throughput
from bionemo.screens.errors import InputError


def measure(out, devices):
    tiny = PRETRAINING["scale_tiny"]
    compute = replace(tiny["compute"], devices=devices)
    given = {"store": "nowhere", "split": "nowhere.toml"}
    throughput(out, tiny["model"], compute, tiny["training"], SimulatedScreen(), **given)


def test_an_earlier_measurement_is_not_written_over(tmp_path):
    with pytest.raises(InputError, match="exists: name a directory"):
        measure(tmp_path, devices=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    with pytest.raises(InputError, match="exists: name a directory"):
        measure(tmp_path, devices=2)


def test_a_directory_that_another_rank_was_quicker_to_make_is_no_earlier_measurement(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        measure(tmp_path, devices=2)
