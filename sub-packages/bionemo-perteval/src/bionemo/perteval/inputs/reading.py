"""Read files of predicted and observed cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad

from bionemo.perteval.inputs.stored import Cells, open_cells
from bionemo.screens.errors import InputError

Source = str | Path | ad.AnnData
"""An h5ad file, a zarr directory, a folder of prediction shards, or the cells themselves."""

PREDICTION = "prediction"
"""Name of a prediction that the caller gave no name."""


@dataclass(frozen=True, kw_only=True)
class CellFile:
    """A `CellFile` is the cells of one file."""

    cells: Cells
    """Cells by genes, in memory or read as they are asked for."""
    name: str
    """What messages and the report call the file."""
    arm: str = "observed"
    """Row of the tables that a prediction belongs to; several files of one arm are its training seeds."""

    @property
    def stated(self) -> dict[str, Any]:
        """What ``uns["prediction"]`` says about how the cells were made; empty where it says nothing."""
        said = self.cells.uns.get("prediction", {})
        return dict(said) if hasattr(said, "keys") else {}


def read_observed(source: Source) -> CellFile:
    """Read the observed cells; see `evaluate`."""
    cells, name = _read(source, "observed")
    return CellFile(cells=cells, name=name)


def read_predictions(
    predicted: Source | Mapping[str, Source | Sequence[Source]], reserved: Sequence[str] = ()
) -> list[CellFile]:
    """Read every file of predicted cells: of one source, or of name -> its source or those of its training seeds.

    Raises
    ------
    InputError
        Where there is no prediction, its name is `reserved` for another row of the tables, or a file cannot be read.
    """
    named = predicted if isinstance(predicted, Mapping) else {PREDICTION: predicted}
    files = []
    for arm, sources in named.items():
        if arm in (*reserved, "observed", ""):
            raise InputError(f"A prediction cannot be named {arm!r}, which the report calls something else by.")
        listed = [sources] if isinstance(sources, str | Path | ad.AnnData) else list(sources)
        for source in listed:
            cells, name = _read(source, "predicted")
            files.append(CellFile(cells=cells, name=name if len(named) == 1 else f"{arm}: {name}", arm=arm))
    if not files:
        raise InputError("There is no prediction to score; give at least one with --predicted.")
    return files


def _read(source: Source, role: str) -> tuple[Cells, str]:
    """Return the cells and their name; `role` is ``"predicted"`` or ``"observed"``."""
    if isinstance(source, ad.AnnData):
        return source.to_memory() if source.isbacked else source, f"the {role} AnnData"
    return open_cells(Path(source)), Path(source).name
