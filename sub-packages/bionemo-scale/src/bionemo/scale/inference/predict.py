"""Predict from file to file, which is what the command does."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bionemo.scale.config.prediction import Layout
from bionemo.scale.inference.inputs import Cells
from bionemo.scale.inference.output import check_target, is_one_file
from bionemo.scale.inference.progress import shown
from bionemo.scale.inference.ranks import Rank
from bionemo.scale.inference.shards import ShardFolder, shards_of
from bionemo.scale.inference.submission import CONTROL, TARGET, Submission, asked_like, check_submission, read_targets
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
    layout: Layout | None = None,
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
    same call goes on where an earlier one was ended. Return the step of the model and what the prediction is made of,
    in words, and the number of its cells. An InputError says that ``out`` cannot be written or is there already, that
    there is no such checkpoint, or what :meth:`TrainedModel.predict` refuses.

    Parameters
    ----------
    checkpoint, device
        As in :func:`bionemo.scale.load`.
    controls, like, progress, choices
        As in :meth:`TrainedModel.predict`.
    out
        An h5ad file, beside which shards lie until it is made of them; or a folder of shards, without a suffix.
    layout
        Whole counts in the layout of a challenge, control cells too; log1p cells otherwise.
    targets, panel
        With a layout: CSV file of how many cells of each target are asked for, and text file of the genes, in their
        order; the model's own otherwise.
    rank
        Which of several processes this one is; each writes its own shards, and the last one finishes.
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
    if layout is not None:
        submission = Submission.of(request.populations, start.pools.cells, model.genes, panel)
        facts = {**request.facts, "perturbation_key": TARGET, "control": CONTROL}
        request = replace(request, submission=submission, facts=facts)
    made_of = model.summary(request.facts["network_share"])
    one_file = is_one_file(out)
    folder = ShardFolder(shards_of(out) if one_file else out, request.plan(model.network), len(request.shards))
    mend = None if one_file else "name another folder, or replace them with --overwrite"
    sizes, own = request.sizes, range(rank.number, len(request.shards), rank.of)
    if not own:  # the others may be done already
        return made_of, sum(sizes)

    def finished() -> bool:
        return bool(rank.number) and (made := _made(out)) is not None and made.stat().st_mtime >= rank.began

    with folder.held(mend=mend, overwrite=overwrite, finished=finished):
        absent = folder.absent(own)
        if finished():  # and the shards were removed
            absent = []
        with shown(sum(sizes[number] for number in absent), progress and not rank.number) as report:
            for number in absent:
                folder.write(number, request.shard(number, report))
        folder.finish({"prediction": dict(request.facts)}, sizes, out if one_file else None)
    if request.submission is not None and is_whole(out):
        cells_of: Counter[str] = Counter()
        for population in request.populations:
            cells_of[population.perturbation] += population.cells
        check_submission(out, request.submission.genes, cells_of)
    return made_of, sum(sizes)


def _check_layout(
    layout: Layout | None, out: Path, like: Cells | None, targets: Path | None, panel: Path | None
) -> None:
    """Refuse options that do not go with the layout."""
    if layout is None and (targets is not None or panel is not None):
        raise InputError(f"--targets and --panel go with --format {Layout.VCC2026}: give it, or leave them out.")
    if layout is not None and not is_one_file(out):
        raise InputError(f"--out {out} is a folder, and a submission is one file: name an .h5ad file.")
    if like is not None and targets is not None:
        raise InputError("--like and --targets both say how many cells to predict: give one of them.")


def is_whole(out: Path) -> bool:
    """Say whether all of a prediction is there, of several ranks too."""
    return _made(out) is not None


def _made(out: Path) -> Path | None:
    """Return the file that is there once all of a prediction is."""
    return next((path for path in (out, out / INDEX) if path.is_file()), None)
