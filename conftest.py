"""Tests see no GPU unless the mark ``gpu`` is asked for: what they say of a CPU then holds on any machine."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from this process, and from all that it starts."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
