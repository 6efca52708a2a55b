"""Choose which populations to predict, and how many cells of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.inference.controls import ControlCells, places
from bionemo.scale.inference.inputs import Cells, Columns, opened, perturbations_of
from bionemo.screens import Split
from bionemo.screens.errors import InputError, choices, name_list
from bionemo.screens.obs import labels_of

CELLS_PER_SHARD = 16_384
"""A shard holds about so many cells. Which conditions go through the model together follows from it."""


@dataclass(frozen=True)
class Population:
    """A `Population` is one condition to predict, and its number of cells."""

    context: str
    perturbation: str
    batch: str | None
    cells: int

    @property
    def place(self) -> tuple[str, str | None]:
        """Return its context and batch, whose populations share control cells."""
        return self.context, self.batch

    @property
    def names(self) -> tuple[str, str, str | None]:
        """Return what tells it from other populations."""
        return self.context, self.perturbation, self.batch


def populations_like(
    observed: Cells, columns: Columns, split: Split, part: str, perturbations: Sequence[str] = ()
) -> list[Population]:
    """Return as many cells of each (context, perturbation, batch) as observed cells have, control cells left out.

    Chosen are the conditions of a part of the training run's split, or ``all``, and among them those of the labels
    `perturbations`, if any are given. An InputError says that a column is missing, a cell has no label, or there is no
    condition of that part, or none under one of the labels.
    """
    data = opened(observed)
    obs, source = data.obs, data.source
    labels = [labels_of(obs, columns.context, source), perturbations_of(obs, columns, source)]
    if columns.batch:
        labels.append(labels_of(obs, columns.batch, source))
    wanted = []
    for (context, perturbation, *batch), cells in sorted(Counter(zip(*labels, strict=True)).items()):
        if perturbation == columns.control or part not in ("all", split.part(context, perturbation)):
            continue
        wanted.append(Population(context, perturbation, batch[0] if batch else None, cells))
    if not wanted:
        raise InputError(f"{source} has no condition of the split's {part!r} part: choose another with --part.")
    there = {p.perturbation for p in wanted}
    for name in perturbations:
        if name not in there:
            raise InputError(
                f"{source} has no cell of perturbation {name!r} in the split's {part!r} part: {choices(name, there)}, "
                f"or choose another --part."
            )
    chosen = set(perturbations) or there
    return [p for p in wanted if p.perturbation in chosen]


def populations_of(perturbations: Sequence[str], controls: ControlCells) -> list[Population]:
    """Return every (context, batch) of the control cells under each perturbation, one cell for each to start from.

    Batches stay together, without a name, where the control cells say none. A batch whose control cells all have
    another role gets as many cells as it has control cells.
    """
    of_input = places(controls.contexts, controls.batches)
    return [
        Population(context, perturbation, batch, of_input[context, batch] or cells)
        for perturbation in perturbations
        for (context, batch), cells in sorted(controls.sizes.items())
    ]


def shards(populations: Sequence[Population]) -> list[list[Population]]:
    """Cut populations into parts of about `CELLS_PER_SHARD` cells; those that share control cells are neighbours."""
    cut, cells = [], CELLS_PER_SHARD
    for population in sorted(populations, key=lambda p: (p.context, p.batch or "")):
        if cells >= CELLS_PER_SHARD:
            cut.append([])
            cells = 0
        cut[-1].append(population)
        cells += population.cells
    return cut


def check_known(populations: Sequence[Population], vocabulary: Vocabulary) -> None:
    """Raise an InputError for a perturbation neither seen nor embedded, or a dose unlike those of training."""
    labels = sorted({p.perturbation for p in populations})
    unknown = sorted({name for label in labels for name in vocabulary.unknown(label)})
    if unknown:
        missing = "never seen in training" + (" and has no embedding" if vocabulary.embedding_size else "")
        known = [name for name in vocabulary.tokens if name != vocabulary.control]
        raise InputError(f"perturbation {name_list(unknown, 5)} was {missing}: {choices(unknown[0], known)}.")
    for label in labels:
        for treatment in vocabulary.treatments(label):
            if treatment.dose is None or (vocabulary.log_dose and treatment.unit == vocabulary.dose_unit):
                continue
            had = f"doses in {vocabulary.dose_unit or 'no unit'}" if vocabulary.log_dose else "no doses"
            raise InputError(
                f"perturbation {label!r} gives a dose in {treatment.unit or 'no unit'}, and training had {had}: give "
                f"it as training did."
            )


def doses_beyond(populations: Sequence[Population], vocabulary: Vocabulary) -> list[str]:
    """Say which doses lie beyond those that training has shown of the perturbation, where there is a linear start."""
    found = []
    for label in sorted({p.perturbation for p in populations} - set(vocabulary.start_labels)):
        for treatment in vocabulary.treatments(label):
            alone = vocabulary.start_rows_alone.get(treatment.name, {}).values()
            shown = [dose for dose in alone if dose is not None]
            if treatment.dose is None or not shown or min(shown) <= treatment.dose <= max(shown):
                continue
            unit, nearest = treatment.unit, min(shown) if treatment.dose < min(shown) else max(shown)
            found.append(
                f"perturbation {label!r} has a dose beyond those of training, {min(shown):g} to {max(shown):g}{unit} "
                f"of {treatment.name}: the linear start is that of {nearest:g}{unit}, and the network extrapolates."
            )
    return found


def unseen_contexts(populations: Sequence[Population], vocabulary: Vocabulary) -> list[str]:
    """Say which contexts the model knows by their control cells alone."""
    unseen = sorted({p.context for p in populations} - set(vocabulary.contexts))
    if not unseen:
        return []
    return [
        f"no perturbed cell of {name_list(unseen, 5)} was seen in training: the "
        f"model knows {'it' if len(unseen) == 1 else 'them'} by the control cells alone."
    ]
