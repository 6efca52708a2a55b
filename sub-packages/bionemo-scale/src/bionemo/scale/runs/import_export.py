"""Turn an export back into a run that predicts and trains."""

import json
from dataclasses import fields
from pathlib import Path

from safetensors.torch import load_file

from bionemo.scale.config.compute import ComputeConfig, Device
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.model.weight_average import WeightAverage
from bionemo.scale.runs import scale_portable
from bionemo.scale.runs.checksums import check_seal
from bionemo.scale.runs.directory import RunDirectory, RunRecord
from bionemo.scale.runs.failures import reason
from bionemo.scale.runs.load import one_process_groups, torch_device
from bionemo.scale.runs.starting_point import write_starting_point
from bionemo.screens.errors import InputError, brief
from bionemo.screens.making import made_whole, sweep


def import_export(folder: str | Path, out: str | Path, device: str = "auto") -> None:
    """Make a run directory of what :func:`~bionemo.scale.runs.export.export` wrote.

    The run predicts as the exported one did. Trained with the settings of the exported run it starts from these weights
    with a new optimizer and schedule: an export has no optimizer state. The model is built on the device ``auto`` (a
    GPU where there is one), ``cpu`` or ``cuda``. An InputError says that ``folder`` is no export or a damaged one, or
    that ``out`` exists or cannot be written.
    """
    folder, out, place = Path(folder), Path(out), torch_device(device)
    if out.exists():
        sweep(out)
        raise InputError(f"--out {out} exists: name a directory that does not.")
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} lacks {name}: give the directory that `export` wrote.")
    check_seal(folder, "export it again")
    try:
        config = json.loads((folder / "config.json").read_text())
        if config["format"] != scale_portable.FORMAT:
            raise InputError(f"{folder} is of format {config['format']}, not {scale_portable.FORMAT}: export it again.")
        # What was finetuned is whole weights now.
        record = RunRecord(**{f.name: config[f.name] for f in fields(RunRecord) if f.name != "tuning"})
        weights = load_file(folder / "model.safetensors")
        one_process_groups(place)
        compute = ComputeConfig(device=Device(place.type))
        model = ScaleModel(record.model_config(), compute, record.model_vocabulary()).to(place)
        model.load_state_dict(weights)
        if record.training["average_decay"]:
            average = ScaleModel(model.scale, compute, model.vocabulary).to(place)
            average.load_state_dict(weights)
            model.add_module("average", WeightAverage(average))
    except InputError:
        raise
    except Exception as error:  # whatever a library stumbles over, the export is the cause
        raise InputError(f"{folder} is damaged or of another model ({brief(error)}): export it again.") from error
    try:
        with made_whole(out) as made:
            run = RunDirectory(made)
            run.start(record, write=True)
            write_starting_point(run, model, {"from": str(folder), "step": config["step"]})
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({reason(error)}): name another place.") from error
