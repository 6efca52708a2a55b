"""An export back to a run that predicts and trains."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import torch
from megatron.core import dist_checkpointing
from safetensors import SafetensorError
from safetensors.torch import load_file

from bionemo.scale.errors import InputError
from bionemo.scale.export import scale_portable
from bionemo.scale.inference.checkpoint import one_process_groups
from bionemo.scale.model.average import WeightAverage
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.training.cpu import writing_without_cuda
from bionemo.scale.training.run_directory import RunDirectory, RunRecord


def import_export(folder: Path, out: Path) -> None:
    """Make a run directory of what :func:`~bionemo.scale.export.write.export` wrote.

    The run predicts as the exported one did. Trained with the settings of the exported run it starts from these weights
    with a new optimizer and schedule: an export has no optimizer state.

    Parameters
    ----------
    folder
        ``config.json`` and ``model.safetensors``.
    out
        Run directory to write; must not exist.

    Raises
    ------
    InputError
        ``folder`` is no export or a damaged one, or ``out`` exists or cannot be written.
    """
    if out.exists():
        raise InputError(f"--out {out} exists: name a directory that does not.")
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} lacks {name}: give the directory that `export` wrote.")
    try:
        config = json.loads((folder / "config.json").read_text())
        if config["format"] != scale_portable.FORMAT:
            raise InputError(f"{folder} is of format {config['format']}, not {scale_portable.FORMAT}: export it again.")
        record = RunRecord(**{field.name: config[field.name] for field in fields(RunRecord)})
        weights = load_file(folder / "model.safetensors")
        one_process_groups(torch.device("cpu"))
        model = ScaleModel(record.model_config(tensor_parallel=1, layer_spec="local"), record.model_vocabulary())
        model.load_state_dict(weights)
        if record.training["average_decay"]:
            average = ScaleModel(model.scale, model.vocabulary)
            average.load_state_dict(weights)
            model.add_module("average", WeightAverage(average))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{folder} is damaged or of another model ({reason}): export it again.") from error
    run = RunDirectory(out)
    place = run.checkpoints / "step=0"
    try:
        run.start(record, write=True)
        place.with_name("step=0-unfinished").parent.mkdir(parents=True)
        place.with_name("step=0-unfinished").touch()
        (place / "weights").mkdir(parents=True)
        with writing_without_cuda():
            dist_checkpointing.save({"state_dict": model.sharded_state_dict(prefix="module.")}, str(place / "weights"))
        (place / "imported.json").write_text(json.dumps({"from": str(folder), "step": config["step"]}))
        place.with_name("step=0-unfinished").unlink()
    except OSError as error:
        shutil.rmtree(out, ignore_errors=True)
        raise InputError(f"--out {out} cannot be written ({error.strerror}): name another place.") from error
