"""Predict from file to file, which is what the command does."""

from pathlib import Path
from typing import Any

import anndata as ad

from bionemo.scale.inference.inputs import Cells
from bionemo.scale.inference.output import check_target, write_whole
from bionemo.scale.inference.trained_model import TrainedModel


def predict(
    checkpoint: str | Path,
    controls: Cells,
    out: str | Path,
    *,
    like: Cells | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
    **choices: Any,
) -> tuple[TrainedModel, ad.AnnData]:
    """Predict populations of perturbed cells and write them to a file.

    Parameters
    ----------
    checkpoint
        Directory that ``pretrain`` wrote, whose best checkpoint is taken, or one of its ``checkpoints/step=N``.
    controls, like, progress, choices
        As in :meth:`TrainedModel.predict`.
    out
        h5ad file to write.
    overwrite
        Whether to replace a file that is there.
    device
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    model : TrainedModel
        The model that predicted.
    cells : anndata.AnnData
        What was written.

    Raises
    ------
    InputError
        ``out`` cannot be written or is there already, there is no such checkpoint, or what
        :meth:`TrainedModel.predict` refuses.
    """
    out = Path(out)
    check_target(out, {"--controls": controls, "--like": like}, overwrite=overwrite)
    model = TrainedModel.load(checkpoint, device)
    cells = model.predict(controls, like=like, progress=progress, **choices)
    write_whole(cells, out)
    return model, cells
