"""Time the parts of SCALE's own `predict`."""

from typing import Any

import torch
from driver_protocol import serve
from phases import Phases, timed_command

from bionemo.scale.inference import generate, predict, trained_model
from bionemo.scale.inference.controls import ControlCells
from bionemo.scale.inference.shards import ShardFolder


def run(checkpoint: str, controls: str, out: str, sets_at_once: int, threads: int) -> dict[str, Any]:
    """Predict the test conditions of a file of counts, and say what it took."""
    torch.set_num_threads(threads)
    generate.SETS_AT_ONCE = sets_at_once
    with Phases() as phases:
        phases.forward(generate.Generator, "_network")
        phases.part(generate.Generator, "predict", "loop")
        phases.part(trained_model, "read_controls", "reading")
        phases.part(ControlCells, "read", "reading")
        phases.part(trained_model, "populations_like", "reading")
        phases.part(ShardFolder, "write", "writing")
        phases.part(ShardFolder, "finish", "writing")

        def command() -> None:
            # Nothing was held out to choose the share of the network; a half asks both, network and linear start.
            asked = {"like": controls, "overwrite": True, "progress": False, "network_share": 0.5}
            predict.predict(checkpoint, controls, out, **asked)

        return timed_command(command, phases, out)


if __name__ == "__main__":
    serve(predict=run)
