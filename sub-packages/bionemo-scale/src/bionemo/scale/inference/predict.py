"""Predict from file to file, which is what the command does."""

from pathlib import Path
from typing import Any

import torch

from bionemo.scale.inference.inputs import Cells
from bionemo.scale.inference.output import check_target, is_one_file
from bionemo.scale.inference.progress import shown
from bionemo.scale.inference.ranks import Rank
from bionemo.scale.inference.shards import ShardFolder, shards_of
from bionemo.scale.inference.trained_model import TrainedModel
from bionemo.screens.shards import INDEX

ALONE = Rank()


def predict(
    checkpoint: str | Path,
    controls: Cells,
    out: str | Path,
    *,
    like: Cells | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
    rank: Rank = ALONE,
    **choices: Any,
) -> tuple[str, int]:
    """Predict populations of perturbed cells, shard by shard, and write each as it comes.

    Memory grows with a shard and with the control cells of a context, not with the number of cells or conditions. The
    same call goes on where an earlier one was ended.

    Parameters
    ----------
    checkpoint
        Directory that ``pretrain`` wrote, whose best checkpoint is taken, or one of its ``checkpoints/step=N``.
    controls, like, progress, choices
        As in :meth:`TrainedModel.predict`.
    out
        An h5ad file, beside which shards lie until it is made of them; or a folder of shards, without a suffix.
    overwrite
        Whether to replace what is there.
    device
        ``auto``, ``cpu`` or ``cuda``.
    rank
        Which of several processes this one is; each writes its own shards, and the last one finishes.

    Returns
    -------
    made_of : str
        The step of the model, and what the prediction is made of.
    cells : int
        The number of cells of the whole prediction.

    Raises
    ------
    InputError
        ``out`` cannot be written or is there already, there is no such checkpoint, or what
        :meth:`TrainedModel.predict` refuses.
    """
    out = Path(out)
    check_target(out, {"--controls": controls, "--like": like}, overwrite=overwrite or rank.number > 0)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank.local % torch.cuda.device_count())
    model = TrainedModel.load(checkpoint, device)
    asked = {name: choices.pop(name) for name in ("perturbations", "part") if name in choices}
    request = model.start_from(controls, **choices).request(like=like, **asked)
    made_of = model.summary(request.facts["network_share"])
    one_file = is_one_file(out)
    folder = ShardFolder(shards_of(out) if one_file else out, request.plan(model.network), len(request.shards))
    mend = None if one_file else "name another folder, or replace them with --overwrite"
    sizes, own = request.sizes, range(rank.number, len(request.shards), rank.of)
    if not own:  # the others may be done already
        return made_of, sum(sizes)
    with folder.held(mend=mend, overwrite=overwrite):
        absent = folder.absent(own)
        with shown(sum(sizes[number] for number in absent), progress and not rank.number) as report:
            for number in absent:
                folder.write(number, request.shard(number, report))
        folder.finish({"prediction": dict(request.facts)}, sizes, out if one_file else None)
    return made_of, sum(sizes)


def is_whole(out: Path) -> bool:
    """Say whether all of a prediction is there, of several ranks too."""
    return out.is_file() or (out / INDEX).is_file()
