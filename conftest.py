"""Tests see no GPU unless the mark ``gpu`` is asked for: what they say of a CPU then holds on any machine."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

UNTIL = "SCALE_TESTS_UNTIL"
"""Variable with the time, in seconds since 1970, after which no test is started any more; those left are skipped."""


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from this process, and from all that it starts."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests for which no time is left."""
    if time.time() > float(os.environ.get(UNTIL, "inf")):
        pytest.skip(f"no time is left for it: {UNTIL} has passed")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end the tests and what they start, although commands that end, and shells, leave it without effect."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)
