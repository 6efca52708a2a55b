"""Export a checkpoint as safetensors, JSON and the file that runs them."""

import json
import math
import shutil
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from bionemo.scale.data.condition import Condition
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.apply import rows_of
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.runs import scale_portable
from bionemo.scale.runs.checksums import seal
from bionemo.scale.runs.directory import PACKAGES
from bionemo.scale.runs.failures import reason
from bionemo.scale.runs.load import find_checkpoint, load_model, torch_device
from bionemo.screens.errors import InputError
from bionemo.screens.making import made_whole, sweep

TOLERANCE = 1e-5


def export(checkpoint: str | Path, out: str | Path, device: str = "auto") -> None:
    """Write a model so that torch and safetensors are all it takes to run it.

    ``out``, which must not exist, gets ``model.safetensors`` (float32, whole tensors under their training names),
    ``config.json`` (the run's record, the step and the versions), ``scale_portable.py``, which loads the other two, and
    ``checksums.json`` of all three. Before anything is written, its prediction is compared with the model's.

    The checkpoint is a run's directory (its best one is taken), or one of its ``checkpoints/step=N``. The model is
    built and compared on the device ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.

    Raises
    ------
    InputError
        ``out`` exists or cannot be written, there is no such checkpoint, or ``scale_portable.py`` lacks a part of the
        model.
    """
    out = Path(out)
    if out.exists():
        sweep(out)
        raise InputError(f"--out {out} exists: name a directory that does not.")
    run, found = find_checkpoint(checkpoint)
    record = run.read()
    model, step = load_model(run, torch_device(device), found)
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor is not None}
    weights = {name: tensor.float().cpu().contiguous().clone() for name, tensor in state.items()}
    config = {
        "format": scale_portable.FORMAT,
        "step": step,
        **asdict(record),
        "labels": _labels(model.vocabulary),
        "versions": {name: version(name) for name in PACKAGES},
    }
    config = json.loads(json.dumps(config))
    _check_portable(model, config, weights)
    try:
        with made_whole(out) as place:
            save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
            (place / "config.json").write_text(json.dumps(config, indent=1))
            shutil.copyfile(scale_portable.__file__, place / "scale_portable.py")
            seal(place)
    except (OSError, SafetensorError) as error:
        raise InputError(f"--out {out} cannot be written ({reason(error)}): name another place.") from error


def _labels(vocabulary: Vocabulary) -> dict[str, dict]:
    """List the tokens' rows, their doses and the linear start's rows of every label of training and every token."""
    found = {}
    for label in dict.fromkeys((*vocabulary.start_labels, *vocabulary.tokens)):
        tokens = vocabulary.token_rows(label)
        found[label] = {
            "tokens": [token for token, _ in tokens],
            "doses": [None if math.isnan(dose) else dose for _, dose in tokens],
            "rows": [] if label == vocabulary.control else rows_of(label, vocabulary),
        }
    return found


def _check_portable(model: ScaleModel, config: dict, weights: dict[str, torch.Tensor]) -> None:
    """Predict three sets of random cells, one of them padded, both ways."""
    vocabulary, device = model.vocabulary, model.gene_mean.device
    mask_BS = torch.tensor([[True] * 8, [True] * 8, [True] * 5 + [False] * 3], device=device)
    random = torch.rand(3, 8, len(vocabulary.genes), generator=torch.Generator().manual_seed(0))
    x0_BSG = random.mul(3).sub(1).relu().to(device)
    last = [len(table) - 1 for table in (vocabulary.tokens, vocabulary.contexts)]
    # The first token, the last, and a combination with doses.
    condition = Condition(
        perturbation=torch.tensor([[0, -1], [last[0], -1], [last[0], 0]], device=device),
        dose=torch.tensor([[torch.nan, torch.nan], [0.5, torch.nan], [-1.0, 1.5]], device=device),
        context=torch.tensor([-1, last[1], 0], device=device),
        batch=torch.tensor([-1, -1, -1], device=device),
    )
    key_B = torch.tensor([1, 2, 3])
    try:
        portable = scale_portable.ScaleModel(config["model"], config["vocabulary"], config["labels"])
        portable.load_state_dict(weights)
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"this model cannot be exported, since scale_portable.py lacks a part of it "
            f"({str(error).splitlines()[0]}): use it with `bionemo-scale predict`."
        ) from error
    portable, difference = portable.eval().to(device), 0.0
    if model.linear_start is not None and portable.linear_start is not None:
        labels = [vocabulary.control, vocabulary.tokens[-1], vocabulary.start_labels[0]]
        mean_BG = x0_BSG.mean(1)
        features_BFG = model.linear_start.features(labels, condition.context, mean_BG, vocabulary)
        rows = [portable.start_rows(label) for label in labels]
        found_BFG = portable.linear_start.features(rows, condition.context, mean_BG)
        difference = float((found_BFG - features_BFG).abs().max())
        condition = replace(condition, evidence=features_BFG)
    expected_BSG = model.predict(x0_BSG, mask_BS, condition, key_B)
    with torch.no_grad():
        found_BSG = portable(x0_BSG, mask_BS, **vars(condition), key=key_B)
    difference = max(difference, float((found_BSG - expected_BSG)[mask_BS].abs().max()))
    if not difference <= TOLERANCE * max(1.0, math.log1p(vocabulary.target_sum)):
        raise InputError(
            f"this model cannot be exported, since scale_portable.py predicts otherwise than it does (by "
            f"{difference:.2g}): use it with `bionemo-scale predict`."
        )
