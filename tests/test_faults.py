"""The campaign of faults leaves nothing behind itself."""

import subprocess
import sys
from pathlib import Path

from jobs import wait_for

CAMPAIGN = """
import os, sys, time
from pathlib import Path
from faults import run, trials

folder = Path(sys.argv[1])
(folder / "base").mkdir()

def sleeps(trial):
    (folder / f"{os.getpid()}.worker").touch()
    time.sleep(100)

trials.register("sleeps", 2, 2, sleeps)
run.run([("sleeps", 0), ("sleeps", 1)], 2, 0, folder, {})
"""


def test_a_campaign_that_is_killed_leaves_no_worker(tmp_path):
    here = Path(__file__).parent
    campaign = subprocess.Popen([sys.executable, "-c", CAMPAIGN, tmp_path], cwd=here)
    wait_for(lambda: len(list(tmp_path.glob("*.worker"))) == 2)
    campaign.kill()
    campaign.wait()
    workers = [int(path.stem) for path in tmp_path.glob("*.worker")]
    wait_for(lambda: not any(map(lives, workers)))


def lives(process: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
