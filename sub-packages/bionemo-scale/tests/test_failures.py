"""What ends a run from outside is said in one sentence, which names what failed."""

import errno
import os
import subprocess
import sys

import pytest

from bionemo.scale.errors import Stopped
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.training.failures import one_sentence

LOGS = """
import errno, sys
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.compat.proto.event_pb2 import Event
from bionemo.scale.quiet import hush

def fail():
    raise OSError(errno.EROFS, "Read-only file system")

hush()
writer = EventFileWriter(sys.argv[1], flush_secs=0)
beside = writer._async_writer
beside._writer.flush = fail
writer.add_event(Event())
beside._worker.join(30)
try:
    writer.flush()
except OSError as error:
    print(error.strerror, end="")
"""


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, "run could not be written to (No space left on device): make room there and start"),
        (errno.EROFS, "run could not be read or written (Read-only file system): mend that and start"),
    ],
)
def test_a_disk_that_fails_while_a_run_trains_is_a_sentence(tmp_path, code, sentence):
    with pytest.raises(Stopped) as stopped, one_sentence(RunDirectory(tmp_path / "run")):
        raise OSError(code, os.strerror(code))
    assert sentence in stopped.value.sentence


def test_a_thread_that_cannot_log_leaves_the_words_to_the_run(tmp_path):
    done = subprocess.run([sys.executable, "-c", LOGS, tmp_path / "logs"], capture_output=True, text=True, timeout=120)
    assert done.stdout == "Read-only file system", done.stderr
    assert "Traceback" not in done.stderr
