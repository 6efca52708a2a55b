"""Starting training runs and reading their logs."""

from pathlib import Path


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

    from bionemo.scale.inference.checkpoint import load_model
    from bionemo.scale.training.run_directory import RunDirectory

    directory = RunDirectory(run)
    model, _ = load_model(directory, torch.device("cpu"), directory.last_checkpoint())
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items() if value is not None}
