"""Find the genes of a run or a store, by name."""

import json
from pathlib import Path

from bionemo.screens.errors import InputError


def names_of_genes(place: Path) -> list[str]:
    """Return the genes of a training run, of one of its checkpoints, or of a store, in their order.

    Raises
    ------
    InputError
        ``place`` is none of them.
    """
    run = place.parents[1] if place.parent.name == "checkpoints" else place
    if (run / "run.json").is_file():
        try:
            return list(json.loads((run / "run.json").read_text())["vocabulary"]["genes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{run / 'run.json'} is damaged ({error}): restore it.") from None
    if not (place / "manifest.json").is_file():
        raise InputError(f"--genes-of {place} is no run and no store: name what `pretrain` or `prepare` wrote.")
    from bionemo.cellsets import CellStore

    return list(map(str, CellStore.open(place).genes))
