"""Ranges for nsys: every one that is opened is closed, and the last opened first."""

import pytest
import torch

from bionemo.scale.training.callbacks import profiling


class Recorder:
    """Stands for ``torch.cuda.nvtx``."""

    def __init__(self):
        self.open: list[str] = []
        self.closed: list[str] = []

    def range_push(self, name: str) -> None:
        self.open.append(name)

    def range_pop(self) -> None:
        self.closed.append(self.open.pop())


@pytest.fixture
def nvtx(monkeypatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(profiling, "_nvtx", lambda: recorder)
    return recorder


class Fails(torch.nn.Module):
    def forward(self, _x):
        raise ValueError("no")


def test_modules_are_ranges_also_where_one_of_them_fails(nvtx):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), Fails())
    for name, part in model.named_modules():
        profiling._as_range(part, name or "whole")
    with pytest.raises(ValueError, match="no"):
        model(torch.ones(1, 2))
    assert nvtx.closed == ["0", "1", "whole"]
    assert not nvtx.open


def test_megatrons_timers_are_ranges_that_may_stand_in_themselves(nvtx):
    timers = profiling.Ranges()
    timers("forward-backward", log_level=1).start(barrier=True)
    timers("forward-compute", log_level=2).start()
    timers("forward-compute").start()
    timers("forward-compute").stop()
    timers("forward-compute").stop()
    timers("forward-backward").stop()
    assert nvtx.closed == ["forward-compute", "forward-compute", "forward-backward"]
    assert not nvtx.open
