"""Read the two files and bring them to one gene panel and one scale."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.perteval.inputs import checks
from bionemo.perteval.inputs.checks import Keys
from bionemo.perteval.inputs.screen import Predicted, Screen, gene_count, generator
from bionemo.screens.errors import InputError, nearest
from bionemo.screens.labels import Condition

_CELLS_AT_ONCE = 20_000


def read(source: Path | str | ad.AnnData, role: str) -> tuple[ad.AnnData, str]:
    """Return the cells and the name by which messages call them.

    Parameters
    ----------
    source
        Path of an h5ad file, or the cells themselves.
    role
        ``"predicted"`` or ``"observed"``.
    """
    if isinstance(source, ad.AnnData):
        return source.to_memory() if source.isbacked else source, f"the {role} AnnData"
    path = Path(source)
    if not path.is_file():
        raise InputError(f"The {role} file {path} does not exist; check the path.")
    try:
        return ad.read_h5ad(path), path.name
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"The {role} file {path} cannot be read as h5ad ({reason}); write it with anndata.") from error


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One file of predicted cells.

    Attributes
    ----------
    arm
        Row of the tables that it belongs to; several files of one arm are its training seeds.
    cells
        Predicted cells, log1p; control cells among them are dropped.
    name
        How messages call it.
    """

    arm: str
    cells: ad.AnnData
    name: str


def build(
    predictions: Sequence[Prediction],
    observed: ad.AnnData,
    keys: Keys,
    *,
    observed_name: str = "observed",
    held_out: Collection[Condition] = (),
    seed: int = 0,
) -> Screen:
    """Check all files and bring them to one panel and one scale.

    Parameters
    ----------
    predictions
        At least one; all of the same conditions and genes.
    observed
        Observed cells, counts or log1p.
    keys
        Columns, control label, target sum, layer.
    observed_name
        How messages call the observed file.
    held_out
        Further conditions that the baselines must not use.
    seed
        Of the draw that equalises the number of cells.

    Raises
    ------
    InputError
        Where the files do not fit together or hold values on the wrong scale.
    """
    first = predictions[0]
    rows = checks.group(checks.labels(observed, keys, observed_name))
    known = {perturbation for _, perturbation in rows}
    if keys.control not in known:
        raise InputError(
            f"Control label {keys.control!r} is not in column {keys.perturbation_key!r} of {observed_name}"
            f"{nearest(keys.control, known)}; give the right one with --control."
        )
    wanted = [_wanted(prediction, keys) for prediction in predictions]
    checks.check_conditions(wanted[0], rows, keys, observed_name)
    for prediction, conditions in zip(predictions[1:], wanted[1:], strict=True):
        checks.check_same_conditions(wanted[0], conditions, first.name, prediction.name)
        checks.check_same_genes(first.cells, prediction.cells, first.name, prediction.name)

    genes, columns = checks.panel(first.cells, observed, first.name, observed_name)
    sizes = {condition: rows[condition].size for condition in wanted[0]}
    notes: list[str] = []
    cells: dict[str, tuple[Predicted, ...]] = {}
    for prediction, conditions in zip(predictions, wanted, strict=True):
        matrix = checks.log1p_matrix(prediction.cells, prediction.name)
        if prediction is not first:
            matrix = matrix[:, prediction.cells.var_names.get_indexer(pd.Index(genes))]
        rows_of, said = _equalised(conditions, sizes, prediction.name if len(predictions) > 1 else "", seed)
        cells[prediction.arm] = (*cells.get(prediction.arm, ()), Predicted(matrix, rows_of))
        notes += said
    matrix, library, target_sum, said = _on_log1p(observed, keys, columns, observed_name)
    notes += said
    for prediction in predictions:
        trained_on = stated(prediction.cells).get("input_kind")
        kind = "log1p" if library is None else "counts"
        if trained_on is not None and str(trained_on) != kind:
            notes.append(
                f"{prediction.name} was made from {trained_on}, the observed file holds {kind}: the two scales may "
                "differ, and MSE and MAE with them."
            )
    training, said = _training(rows, set(sizes), {(str(c), str(p)) for c, p in held_out}, keys.control)
    return Screen(
        genes=genes,
        observed=matrix,
        library=library,
        target_sum=target_sum,
        rows=rows,
        predictions=cells,
        control=keys.control,
        training=training,
        notes=tuple(notes + said),
    )


def _wanted(prediction: Prediction, keys: Keys) -> dict[Condition, np.ndarray]:
    """Return the predicted conditions and their rows, sorted, without the control cells."""
    groups = checks.group(checks.labels(prediction.cells, keys, prediction.name))
    wanted = {condition: rows for condition, rows in sorted(groups.items()) if condition[1] != keys.control}
    if not wanted:
        raise InputError(
            f"{prediction.name} holds no perturbed cells: every label in {keys.perturbation_key!r} is "
            f"{keys.control!r}; predict perturbations, or give the right --control."
        )
    return wanted


def _equalised(
    wanted: dict[Condition, np.ndarray], sizes: dict[Condition, int], name: str, seed: int
) -> tuple[dict[Condition, np.ndarray], list[str]]:
    """Return the rows of as many predicted as observed cells of each condition, and what to say of a draw."""
    equal = {}
    resized = []
    for (context, perturbation), rows in wanted.items():
        size = sizes[context, perturbation]
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


def _on_log1p(
    observed: ad.AnnData, keys: Keys, columns: np.ndarray, name: str
) -> tuple[sp.csr_matrix, np.ndarray | None, float | None, list[str]]:
    """Return the observed cells on the panel, log1p [N, G], their library sizes [N], the target sum, and notes."""
    matrix, kind = checks.observed_matrix(observed, keys.layer, name)
    if kind == "log1p":
        return sp.csr_matrix(_columns(matrix, columns), dtype=np.float32), None, None, []
    if keys.target_sum is None:
        raise InputError(f"{name} holds counts but the target sum is not known: give --target-sum (often 10000).")
    if not keys.target_sum > 0:
        raise InputError(f"target_sum is {keys.target_sum:g}, but it has to be above 0, for example 10000.")
    library = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    empty = int((library == 0).sum())
    notes = [f"{empty} observed cells have no counts at all and stay zero in every gene."] if empty else []
    scale = np.divide(keys.target_sum, library, out=np.zeros_like(library), where=library > 0)
    return _log1p(_columns(matrix, columns), scale), library, keys.target_sum, notes


def _columns(matrix: sp.csr_matrix, columns: np.ndarray) -> sp.csr_matrix:
    """Return the columns in this order, without a copy where it is theirs already."""
    everything = columns.size == gene_count(matrix) and bool((columns == np.arange(columns.size)).all())
    return matrix if everything else sp.csr_matrix(matrix[:, columns])


def _log1p(counts: sp.csr_matrix, scale: np.ndarray) -> sp.csr_matrix:
    """Return log1p(counts * scale of the cell) in single precision, computed in double, some cells at a time."""
    values = np.empty(counts.data.size, dtype=np.float32)
    for start in range(0, scale.size, _CELLS_AT_ONCE):
        bounds = counts.indptr[start : start + _CELLS_AT_ONCE + 1]
        some = slice(bounds[0], bounds[-1])
        times = np.repeat(scale[start : start + _CELLS_AT_ONCE], np.diff(bounds))
        values[some] = np.log1p(counts.data[some] * times)
    return sp.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)


def conditions(cells: ad.AnnData, keys: Keys, name: str) -> set[Condition]:
    """Return every (context, perturbation) of a file, controls included."""
    return set(checks.group(checks.labels(cells, keys, name)))


def stated(predicted: ad.AnnData) -> dict[str, Any]:
    """Return what the prediction says about itself."""
    said = predicted.uns.get("prediction", {})
    return dict(said) if hasattr(said, "keys") else {}


def _training(
    rows: dict[Condition, np.ndarray], scored: set[Condition], held_out: set[Condition], control: str
) -> tuple[tuple[Condition, ...], list[str]]:
    """Return the conditions that baselines may use, and what to say about them."""
    free = [c for c in rows if c[1] != control and c not in scored and c not in held_out]
    training = tuple(c for c in free if (c[0], control) in rows)
    notes = []
    without = sorted({context for context, _ in free} - {context for context, _ in training})
    if without:
        notes.append(f"Contexts without control cells were not used for the baselines: {', '.join(without)}.")
    if training:
        per_context = Counter(context for context, _ in training)
        listed = ", ".join(f"{context} ({count})" for context, count in sorted(per_context.items()))
        spared = len(held_out & set(rows))
        notes.append(
            f"The baselines used {len(training)} observed conditions that are not scored"
            f"{f' and not among the {spared} further held-out ones' if spared else ''}; per context: {listed}."
        )
    else:
        notes.append(
            "The observed file has no conditions besides the scored and held-out ones, so the baselines that transfer "
            "an effect are missing; give the whole screen as the observed file."
        )
    return training, notes
