"""How commands end."""

import subprocess
import sys

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
