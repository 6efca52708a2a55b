"""Find the genes of a run or a store, by name."""

from pathlib import Path

from bionemo.screens.errors import InputError


def names_of_genes(place: Path) -> list[str]:
    """Return the genes of a run, one of its checkpoints, or a store, in order; an InputError where it is none."""
    run = place.parents[1] if place.parent.name == "checkpoints" else place
    if (run / "run.json").is_file():
        from bionemo.scale.runs.directory import RunDirectory

        return list(RunDirectory(run).read().model_vocabulary().genes)
    if not (place / "manifest.json").is_file():
        raise InputError(f"--genes-of {place} is no run and no store: name what `pretrain` or `prepare` wrote.")
    from bionemo.cellsets import CellStore

    return list(map(str, CellStore.open(place).genes))
