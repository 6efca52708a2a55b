"""Starting training runs and reading their logs."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pretrain_arguments(workshop: Path, out: Path, *overrides: str) -> list[str]:
    """Arguments of ``bionemo-scale`` for a small training run."""
    return [
        *("pretrain", "--store", str(workshop / "store"), "--split", str(workshop / "split.toml"), "--out", str(out)),
        *("training.sets_per_batch=4", "training.cells_per_set=16", "training.log_every=1"),
        *("training.warmup_steps=2", *overrides),
    ]


def logged(run: Path, name: str = "train/loss") -> dict[int, list[float]]:
    """Values that TensorBoard holds of a run, by step; a step that was repeated has several."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    values: dict[int, list[float]] = {}
    for file in sorted((run / "tensorboard").glob("events.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tag == name:
                    values.setdefault(event.step, []).append(float(make_ndarray(value.tensor)))
    return values


def saved_weights(run: Path) -> dict[str, bytes]:
    """Weights of a run's newest checkpoint, bit for bit."""
    import torch

    from bionemo.scale.runs.directory import RunDirectory
    from bionemo.scale.runs.load import load_model

    directory = RunDirectory(run)
    model, _ = load_model(directory, torch.device("cpu"), directory.last_checkpoint())
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items() if value is not None}


def gradients(run: Path, step: int, before: Path | None = None) -> dict[str, "torch.Tensor"]:
    """Whole gradient of every weight in one step, as all ranks together had it.

    Adam's first moment is a moving average of gradients, so two checkpoints in a row tell the one between them.

    Parameters
    ----------
    run
        Has the checkpoint of ``step``.
    step
        The step.
    before
        Run that has the checkpoint of the step before; there is none before the first.
    """
    now = _first_moments(run / "checkpoints" / f"step={step}")
    if before is None:
        return {name: moment / 0.1 for name, moment in now.items()}
    then = _first_moments(before / "checkpoints" / f"step={step - 1}")
    assert now.keys() == then.keys()
    return {name: (now[name] - 0.9 * then[name]) / 0.1 for name in now}


def _first_moments(checkpoint: Path) -> dict[str, "torch.Tensor"]:
    import torch
    from megatron.core import dist_checkpointing

    from bionemo.scale.runs.load import one_process_groups

    one_process_groups(torch.device("cpu"))
    tensors = dist_checkpointing.load_plain_tensors(str(checkpoint / "weights"))
    mark = "exp_avg."
    return {name.partition(mark)[2]: value.double() for name, value in tensors.items() if mark in name}


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until a condition holds, and fail where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
