"""Predict from file to file, which is what the command does."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bionemo.scale.inference.inputs import Cells
from bionemo.scale.inference.output import check_target, is_one_file
from bionemo.scale.inference.progress import shown
from bionemo.scale.inference.ranks import Rank
from bionemo.scale.inference.request import Request
from bionemo.scale.inference.shards import ShardFolder, shards_of
from bionemo.scale.inference.submission import (
    CONTROL,
    FORMAT,
    TARGET,
    Submission,
    asked_like,
    check_submission,
    read_targets,
)
from bionemo.scale.inference.trained_model import TrainedModel
from bionemo.screens.errors import InputError
from bionemo.screens.shards import INDEX

ALONE = Rank()


def predict(
    checkpoint: str | Path,
    controls: Cells,
    out: str | Path,
    *,
    like: Cells | None = None,
    layout: str = "",
    targets: Path | None = None,
    panel: Path | None = None,
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
    layout
        ``vcc2026`` writes whole counts in the layout of that challenge, control cells too; log1p cells otherwise.
    targets
        With ``vcc2026``: CSV file of how many cells of each target are asked for.
    panel
        With ``vcc2026``: text file of the genes, in their order; the model's own otherwise.
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
    _check_layout(layout, out, like, targets, panel)
    read = {"--controls": controls, "--like": like, "--evidence": choices.get("evidence")}
    check_target(out, read, overwrite=overwrite or rank.number > 0)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank.local % torch.cuda.device_count())
    model = TrainedModel.load(checkpoint, device)
    asked = {name: choices.pop(name) for name in ("perturbations", "part") if name in choices}
    start = model.start_from(controls, **choices)
    if targets is not None:
        wanted = read_targets(targets, start.columns.control)
        like, asked["part"] = asked_like(wanted, start.pools.cells, start.columns), "all"
    request = start.request(like=like, **asked)
    if layout == FORMAT:
        populations = [population for shard in request.shards for population in shard]
        submission = Submission.of(populations, start.pools.cells, model.genes, panel)
        facts = {**request.facts, "perturbation_key": TARGET, "control": CONTROL}
        request = replace(request, submission=submission, facts=facts)
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
    if request.submission is not None and is_whole(out):
        check_submission(out, request.submission.genes, _cells_of(request))
    return made_of, sum(sizes)


def _check_layout(layout: str, out: Path, like: Cells | None, targets: Path | None, panel: Path | None) -> None:
    """Refuse options that do not go with the layout."""
    if layout not in ("", FORMAT):
        raise InputError(f"--format {layout!r} is not known: leave it out, or give {FORMAT}.")
    if not layout and (targets is not None or panel is not None):
        raise InputError(f"--targets and --panel go with --format {FORMAT}: give it, or leave them out.")
    if layout and not is_one_file(out):
        raise InputError(f"--out {out} is a folder, and a submission is one file: name an .h5ad file.")
    if like is not None and targets is not None:
        raise InputError("--like and --targets both say how many cells to predict: give one of them.")


def _cells_of(request: Request) -> dict[str, int]:
    """Return target -> number of cells."""
    asked: Counter[str] = Counter()
    for population in (population for shard in request.shards for population in shard):
        asked[population.perturbation] += population.cells
    return asked


def is_whole(out: Path) -> bool:
    """Say whether all of a prediction is there, of several ranks too."""
    return out.is_file() or (out / INDEX).is_file()
