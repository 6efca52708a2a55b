"""Ranges for nsys around a real training; nsys itself needs a GPU, so what would be told to NVTX is written down."""

import json
import subprocess
import sys

import pytest
from jobs import pretrain_arguments

# NVTX keeps a stack: what is popped is what was pushed last.
RECORDED = """\
import json, os, sys
from bionemo.scale.cli.app import app
from bionemo.scale.training.callbacks import profiling

events, names = [], []

class Recorder:
    def range_push(self, name):
        names.append(name)
        events.append(["push", name])

    def range_pop(self):
        events.append(["pop", names.pop()])

profiling._nvtx = Recorder
stop = profiling.Range.stop

def checked(self):
    assert names[-1] == self.name, f"{self.name} is closed inside {names[-1]}"
    stop(self)

profiling.Range.stop = checked
app(sys.argv[2:], standalone_mode=False)
with open(sys.argv[1], "w") as file:
    json.dump({"events": events, "open": names}, file)
# Torch's profiler now and then crashes a process that ends by itself.
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ranges_of_a_training_are_opened_and_closed_in_turn(workshop, environment, tmp_path, precision):
    run, told = tmp_path / "run", tmp_path / "events.json"
    task = pretrain_arguments(
        *(workshop, run, "training.max_steps=5", "training.profile_steps=2", "training.validate_every=100"),
        *("training.accumulate=2", "compute.recompute=true", f"compute.precision={precision}"),
    )
    done = subprocess.run(
        [sys.executable, "-c", RECORDED, told, *task], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(told.read_text())
    assert found["open"] == []
    pushed = [name for event, name in found["events"] if event == "push"]
    assert pushed.count("data") == pushed.count("backward-compute") == 5 * 2
    assert pushed.count("optimizer-inner-step") == 5
    assert pushed.count("forward-compute") >= 5 * 2
    assert any(name.endswith("transport.blocks") for name in pushed)
    # The same names are in the trace that is written here.
    trace = json.loads((run / "profile" / "trace.json").read_text())["traceEvents"]
    assert {"data", "forward-compute", "backward-compute", "optimizer-inner-step"} <= {e.get("name") for e in trace}
