"""Bring predicted and observed cells to one gene panel, one scale and one number of cells."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.perteval.inputs import agreement
from bionemo.perteval.inputs.agreement import Rows
from bionemo.perteval.inputs.expression import observed_log1p, predicted_log1p
from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.labels import contexts_of, factors_of, rows_by_condition
from bionemo.perteval.inputs.reading import CellFile
from bionemo.perteval.inputs.scratch import ScratchCells
from bionemo.perteval.inputs.screen import Populations, Screen, generator
from bionemo.perteval.inputs.stored import names_of
from bionemo.screens.controls import control_parts
from bionemo.screens.errors import InputError
from bionemo.screens.labels import Condition


def align(
    predictions: Sequence[CellFile], observed: CellFile, keys: Keys, *, min_cells: int | None = None, seed: int = 0
) -> Screen:
    """Check that all files fit together, and bring them to one panel, one scale and one number of cells.

    Parameters
    ----------
    predictions
        At least one; all of the same conditions and genes.
    observed
        Observed cells, counts or log1p.
    keys
        Columns, control label, target sum, layer.
    min_cells
        Conditions with fewer cells, in any file, are left out; None refuses what cannot be tested, or leaves out
        subpopulations of fewer than ten cells.
    seed
        Seed of the draw that makes the number of predicted cells equal.

    Returns
    -------
    Screen
        Its training conditions are all that were observed and not predicted; see `hold_out`.

    Raises
    ------
    InputError
        Where the files do not fit together or hold values on the wrong scale.
    """
    first = predictions[0]
    rows, notes = rows_by_condition(observed, keys)
    predicted: Sequence[Rows] = [_perturbed(prediction, keys) for prediction in predictions]
    if keys.within is not None:
        predicted = agreement.of_all_files(predicted, rows, keys)
        min_cells = agreement.SUBPOPULATION if min_cells is None else min_cells
    agreement.check_observed(predicted[0], rows, keys, observed.name)
    for prediction, conditions in zip(predictions[1:], predicted[1:], strict=True):
        agreement.check_same_conditions(predicted[0], conditions, first.name, prediction.name)
        agreement.check_same_genes(first, prediction)
    small = agreement.too_small(predicted, rows, keys.control, min_cells)

    columns = agreement.panel_columns(first, observed)
    genes = first.cells.var_names
    arms: dict[str, tuple[Populations[Condition], ...]] = {}
    for prediction, conditions in zip(predictions, predicted, strict=True):
        cells = predicted_log1p(prediction, conditions, prediction.cells.var_names.get_indexer(pd.Index(genes)))
        kept = {condition: of for condition, of in conditions.items() if condition not in small}
        equal, said = _equalised(kept, rows, prediction.name if len(predictions) > 1 else "", seed)
        seed_of = Populations(equal, partial(_cut, cells, equal))
        arms[prediction.arm] = (*arms.get(prediction.arm, ()), seed_of)
        notes += said
    cells, library, target_sum, said = observed_log1p(observed, rows, keys, columns)
    notes += said + _scale_notes(predictions, observed, keys, "log1p" if library is None else "counts")
    screen = Screen(
        genes=genes.to_numpy(str),
        observed=cells,
        library=library,
        target_sum=target_sum,
        rows=rows,
        predictions=arms,
        control=keys.control,
        control_parts=_control_parts(observed, rows, keys.control),
        factors=factors_of(observed, keys, rows),
        context_of=contexts_of(observed, keys, rows),
        left_out=tuple(small),
        notices=tuple(_left_out(small, predicted, rows, min_cells)),
        notes=tuple(notes),
    )
    return hold_out(screen, ())


def hold_out(screen: Screen, held_out: Collection[Condition]) -> Screen:
    """Return the screen whose baselines use only observed conditions that are neither predicted nor held out."""
    barred = {*next(iter(screen.predictions.values()))[0], *screen.left_out, *held_out}
    free = [c for c in screen.rows if c[1] != screen.control and c not in barred]
    training = tuple(c for c in free if (c[0], screen.control) in screen.rows)
    return replace(screen, training=training)


def training_notes(screen: Screen, held_out: Collection[Condition]) -> list[str]:
    """Say which conditions the baselines used; see `hold_out` for the arguments."""
    notes = []
    bare = sorted({context for context, _ in screen.rows} - {c for c, p in screen.rows if p == screen.control})
    if bare:
        notes.append(f"Contexts without control cells were not used for the baselines: {', '.join(bare)}.")
    if not screen.training:
        return [
            *notes,
            "The observed file has no conditions besides the scored and held-out ones, so the baselines that transfer "
            "an effect are missing; give the whole screen as the observed file.",
        ]
    per_context = Counter(context for context, _ in screen.training)
    listed = ", ".join(f"{context} ({count})" for context, count in sorted(per_context.items()))
    spared = len(set(held_out) & set(screen.rows))
    further = f" and not among the {spared} further held-out ones" if spared else ""
    return [
        *notes,
        f"The baselines used {len(screen.training)} observed conditions that are not scored{further}; per context: "
        f"{listed}.",
    ]


def _cut(cells: ScratchCells, rows: Rows, condition: Condition) -> sp.csr_matrix:
    return cells[rows[condition]]


def _perturbed(prediction: CellFile, keys: Keys) -> dict[Condition, np.ndarray]:
    """Return the predicted conditions and their rows, sorted, without the control cells."""
    groups, _ = rows_by_condition(prediction, keys)
    perturbed = {condition: rows for condition, rows in groups.items() if condition[1] != keys.control}
    if not perturbed:
        raise InputError(
            f"{prediction.name} holds no perturbed cells: every label in {keys.perturbation_key!r} is "
            f"{keys.control!r}; predict perturbations, or give the right --control."
        )
    return perturbed


def _control_parts(observed: CellFile, rows: Rows, control: str) -> dict[str, np.ndarray]:
    """Return context -> part of each of its control cells, from their names, which are read once."""
    controls = {context: of for (context, perturbation), of in rows.items() if perturbation == control}
    parts = control_parts(names_of(observed.cells, np.concatenate(list(controls.values()))))
    ends = np.cumsum([of.size for of in controls.values()])
    return dict(zip(controls, np.split(parts, ends[:-1]), strict=True))


def _equalised(predicted: Rows, observed: Rows, name: str, seed: int) -> tuple[dict[Condition, np.ndarray], list[str]]:
    """Return the rows of as many predicted as observed cells of each condition, and what to say of a draw."""
    equal, resized = {}, []
    for (context, perturbation), rows in predicted.items():
        size = observed[context, perturbation].size
        if rows.size != size:
            rng = generator(seed, "resample", context, perturbation)
            resized.append(f"{context} / {perturbation}: {rows.size} to {size}")
            rows = np.sort(rng.choice(rows, size, replace=rows.size < size))
        equal[context, perturbation] = rows
    if not resized:
        return equal, []
    shown = "; ".join(resized[:5]) + ("; ..." if len(resized) > 5 else "")
    return equal, [
        f"{len(resized)} of {len(equal)} conditions{f' of {name}' if name else ''} have another number of predicted "
        f"than of observed cells and were resampled to the observed number, because DE counts depend on it ({shown})."
    ]


def _left_out(
    small: Sequence[Condition], predicted: Sequence[Rows], observed: Rows, min_cells: int | None
) -> list[str]:
    if not small:
        return []
    each = ", ".join(
        f"{c} / {p} ({min(rows[c, p].size for rows in predicted)} predicted, {observed[c, p].size} observed)"
        for c, p in small
    )
    return [
        f"{len(small)} of {len(predicted[0])} predicted conditions were left out, because they or the control cells of "
        f"their context have fewer than {min_cells} cells: {each}."
    ]


def _scale_notes(predictions: Sequence[CellFile], observed: CellFile, keys: Keys, kind: str) -> list[str]:
    """Say where a prediction was made from other values than those it is scored against."""
    notes = []
    for prediction in predictions:
        made_from, layer = prediction.stated.get("input_kind"), prediction.stated.get("layer")
        if made_from is not None and str(made_from) != kind:
            notes.append(
                f"{prediction.name} was made from {made_from}, the observed file holds {kind}: the two scales may "
                "differ, and MSE and MAE with them."
            )
        if layer and str(layer) != keys.layer and str(layer) in observed.cells.layers:
            notes.append(
                f"{prediction.name} was made from layer {str(layer)!r}, and {keys.layer or 'X'} of {observed.name} was "
                "scored; --layer chooses another."
            )
    return notes
