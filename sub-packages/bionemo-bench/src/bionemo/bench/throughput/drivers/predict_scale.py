"""SCALE's own `predict`, its parts timed."""

from pathlib import Path
from typing import Any

import torch
from driver_protocol import serve
from phases import Phases, timed_command

from bionemo.scale.inference import predict as inference
from bionemo.scale.model.scale_model import ScaleModel


def run(checkpoint: str, controls: str, out: str, sets_at_once: int, threads: int) -> dict[str, Any]:
    """Predict the test conditions of a file of counts, and say what it took."""
    torch.set_num_threads(threads)
    inference.SETS_AT_ONCE = sets_at_once
    with Phases() as phases:
        phases.forward(ScaleModel, "predict")
        phases.part(inference, "_predict_batch", "loop")
        phases.part(inference, "read_controls", "reading")
        phases.part(inference, "populations_like", "reading")
        phases.part(inference, "write_whole", "writing")

        def command() -> None:
            inference.predict(Path(checkpoint), Path(controls), Path(out), like=Path(controls), progress=False)

        return timed_command(command, phases, out)


if __name__ == "__main__":
    serve(predict=run)
