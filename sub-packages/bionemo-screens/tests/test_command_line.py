"""How commands end."""

import subprocess
import sys

import pytest

from bionemo.screens.command_line import one_sentence_ends_it

INTERRUPTED_AT_ITS_END = """
import atexit, os, signal
from bionemo.screens.command_line import one_sentence_ends_it
atexit.register(os.kill, os.getpid(), signal.SIGINT)
with one_sentence_ends_it(print):
    print("done")
"""


def test_ctrl_c_after_a_command_has_done_its_work_prints_no_traceback():
    ran = subprocess.run([sys.executable, "-c", INTERRUPTED_AT_ITS_END], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("done\n", "")


@pytest.mark.parametrize("value", ["abc", "0", "-3"])
def test_a_number_of_threads_that_is_none_is_named_before_a_library_reads_it(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    said: list[str] = []
    with pytest.raises(SystemExit) as ended, one_sentence_ends_it(said.append):
        pytest.fail("the command was started")
    assert ended.value.code == 2
    assert said == [f"error: the environment variable OMP_NUM_THREADS='{value}' is no number of 1 or more: unset it."]
