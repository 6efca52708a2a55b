"""Read the two files and bring them to one gene panel and one scale."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp

from bionemo.perteval import checks
from bionemo.perteval.checks import Keys
from bionemo.perteval.errors import InputError, nearest
from bionemo.perteval.screen import Condition, Screen, generator


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


def build(
    predicted: ad.AnnData,
    observed: ad.AnnData,
    keys: Keys,
    *,
    names: tuple[str, str] = ("predicted", "observed"),
    held_out: Collection[Condition] = (),
    seed: int = 0,
) -> Screen:
    """Check both files and bring them to one panel and one scale.

    Parameters
    ----------
    predicted
        Predicted cells, log1p; control cells among them are dropped.
    observed
        Observed cells, counts or log1p.
    keys
        Columns, control label, target sum, layer.
    names
        How messages call the two files.
    held_out
        Further conditions that the baselines must not use.
    seed
        Of the draw that equalises the number of cells.

    Raises
    ------
    InputError
        Where the files do not fit together or hold values on the wrong scale.
    """
    notes: list[str] = []
    predicted_name, observed_name = names
    predicted_labels = checks.labels(predicted, keys, predicted_name)
    observed_labels = checks.labels(observed, keys, observed_name)

    rows = checks.group(observed_labels)
    known = {perturbation for _, perturbation in rows}
    if keys.control not in known:
        raise InputError(
            f"Control label {keys.control!r} is not in column {keys.perturbation_key!r} of {observed_name}"
            f"{nearest(keys.control, known)}; give the right one with --control."
        )
    wanted = {
        condition: index for condition, index in checks.group(predicted_labels).items() if condition[1] != keys.control
    }
    if not wanted:
        raise InputError(
            f"{predicted_name} holds no perturbed cells: every label in {keys.perturbation_key!r} is {keys.control!r}; "
            "predict perturbations, or give the right --control."
        )
    checks.check_conditions(wanted, rows, keys, observed_name)

    genes, columns = checks.panel(predicted, observed, predicted_name, observed_name)
    predicted_matrix = checks.log1p_matrix(predicted, predicted_name)
    matrix, kind = checks.observed_matrix(observed, keys.layer, observed_name)
    library = None
    target_sum = None
    if kind == "counts":
        if keys.target_sum is None:
            raise InputError(
                f"{observed_name} holds counts but the target sum is not known: give --target-sum (often 10000)."
            )
        if not keys.target_sum > 0:
            raise InputError(f"target_sum is {keys.target_sum:g}, but it has to be above 0, for example 10000.")
        target_sum = keys.target_sum
        library = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
        empty = int((library == 0).sum())
        if empty:
            notes.append(f"{empty} observed cells have no counts at all and stay zero in every gene.")
        matrix = matrix[:, columns].astype(np.float64)
        scale = np.divide(target_sum, library, out=np.zeros_like(library), where=library > 0)
        matrix.data = np.log1p(matrix.data * np.repeat(scale, np.diff(matrix.indptr)))
    else:
        matrix = matrix[:, columns]

    trained_on = stated(predicted).get("input_kind")
    if trained_on is not None and str(trained_on) != kind:
        notes.append(
            f"The prediction was made from {trained_on}, the observed file holds {kind}: the two scales may differ, "
            "and MSE and MAE with them."
        )

    cells = {}
    resized = []
    for (context, perturbation), index in sorted(wanted.items()):
        size = rows[context, perturbation].size
        if index.size != size:
            rng = generator(seed, "resample", context, perturbation)
            resized.append(f"{context} / {perturbation}: {index.size} to {size}")
            index = np.sort(rng.choice(index, size, replace=index.size < size))
        cells[context, perturbation] = predicted_matrix[index]
    if resized:
        shown = "; ".join(resized[:5]) + ("; ..." if len(resized) > 5 else "")
        notes.append(
            f"{len(resized)} of {len(cells)} conditions have another number of predicted than of observed cells and "
            f"were resampled to the observed number, because DE counts depend on it ({shown})."
        )

    training, training_notes = _training(rows, set(cells), {(str(c), str(p)) for c, p in held_out}, keys.control)
    return Screen(
        genes=genes,
        observed=sp.csr_matrix(matrix, dtype=np.float32),
        library=library,
        target_sum=target_sum,
        rows=rows,
        predicted=cells,
        control=keys.control,
        training=training,
        notes=tuple(notes + training_notes),
    )


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
