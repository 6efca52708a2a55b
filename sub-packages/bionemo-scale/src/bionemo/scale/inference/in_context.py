"""Tell a trained model of new perturbations by observed cells of them, without training.

Axes: G genes, R directions of interactions, n cells.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from scipy import sparse

from bionemo.scale.config.model import PerturbationTokens
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.inference.controls import ControlCells
from bionemo.scale.inference.inputs import Columns, perturbations_of
from bionemo.scale.linear_start.apply import LinearStart
from bionemo.scale.linear_start.new_rows import Observed, new_row
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.screens.errors import InputError, name_list
from bionemo.screens.obs import labels_of

MOST_CELLS = 4096
"""A mean is taken over so many cells of a condition at most."""


def told(network: ScaleModel, cells: ControlCells, columns: Columns) -> tuple[ScaleModel, dict[str, list[str]]]:
    """Return a model that also knows the perturbations of observed cells, and their labels in each context.

    The weights are shared with the given model. The linear start gets rows of the new perturbations, and their tokens
    are those of perturbations whose learned tokens training has hidden. Of the file with observed cells, the control
    cells of the role input are used.

    Raises
    ------
    InputError
        The model cannot be told of perturbations. Or the file shows no new perturbation, or one that the model knows.
        Or it shows one in a context that the model does not know, or without control cells of that context.
    """
    start = network.linear_start
    if start is None:
        raise InputError("--evidence: the model has no linear start to tell; train one with model.start=linear.")
    if network.scale.perturbation_tokens is not PerturbationTokens.LEARNED:
        raise InputError(
            f"--evidence: the model knows perturbations by model.perturbation_tokens="
            f"{network.scale.perturbation_tokens}; give vectors of new ones in training."
        )
    shown, known = _observed(cells, columns, network.vocabulary), network.vocabulary
    rows = {label: new_row(start, observed, known) for label, observed in shown.items()}
    vocabulary = _extended(known, list(rows))
    made = copy(network)
    made._modules, made._buffers = dict(network._modules), dict(network._buffers)
    made.vocabulary, made.linear_start = vocabulary, _with_rows(start, rows, known, vocabulary)
    if network.evidence is None:  # tokens of new perturbations say nothing, and were never hidden in training
        made.network_share = torch.zeros_like(network.network_share)
    contexts: dict[str, list[str]] = {}
    for label, observed in shown.items():
        for context in observed:
            contexts.setdefault(context, []).append(label)
    return made.eval(), contexts


def _observed(cells: ControlCells, columns: Columns, vocabulary: Vocabulary) -> dict[str, dict[str, Observed]]:
    """Read what the file shows: label -> context -> means."""
    source, data = cells.source, cells.cells
    labels = perturbations_of(data.obs, columns, source)
    contexts = labels_of(data.obs, columns.context, source)
    new = sorted(set(labels) - {columns.control})
    if not new:
        raise InputError(f"--evidence {source} has control cells alone: give observed cells of new perturbations.")
    if known := [label for label in new if not vocabulary.unknown(label)]:
        raise InputError(
            f"--evidence {source} shows perturbation {name_list(known, 5)}, which the model was trained on: "
            f"--evidence is for new ones; leave those cells out."
        )
    there = set(contexts[labels != columns.control])
    if strange := sorted(there - set(vocabulary.contexts)):
        raise InputError(
            f"--evidence {source} shows perturbations in context {name_list(strange, 5)}, where training showed none: "
            f"what they have in common there is not known; leave those cells out."
        )
    if without := sorted(there - set(cells.contexts)):
        raise InputError(
            f"--evidence {source} has no control cell of role 'input' in context {name_list(without, 5)}, which the "
            f"perturbations there are measured against: add control cells, or choose --control-roles shared."
        )
    controls = {context: _moments(cells, cells.rows[cells.contexts == context]) for context in there}
    found: dict[str, dict[str, Observed]] = {label: {} for label in new}
    for label in new:
        for context in sorted(set(contexts[labels == label])):
            rows = np.flatnonzero((labels == label) & (contexts == context))
            mean, variance = _moments(cells, rows)
            control, least = controls[context]
            spread = np.maximum(variance, least) / len(rows)
            found[label][context] = Observed(mean=mean, noise=spread, control=control, cells=len(rows))
    return found


def _moments(cells: ControlCells, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the variance of cells, log1p, float64 [G] each."""
    expression = sparse.csr_matrix(cells.read(rows[:MOST_CELLS])[0], dtype=np.float64)
    mean = np.asarray(expression.mean(0)).ravel()
    square = np.asarray(expression.multiply(expression).mean(0)).ravel()
    return mean, np.maximum(square - np.square(mean), 0)


def _extended(vocabulary: Vocabulary, labels: list[str]) -> Vocabulary:
    """Add labels, and the names in them that are new, behind those that have no learned token."""
    names = sorted({name for label in labels for name in vocabulary.unknown(label)})
    return replace(
        vocabulary,
        embedded=(*vocabulary.embedded, *names),
        start_labels=(*vocabulary.start_labels, *(label for label in labels if label not in names)),
    )


def _with_rows(
    start: LinearStart, rows: Mapping[str, Mapping[str, torch.Tensor]], old: Vocabulary, new: Vocabulary
) -> LinearStart:
    """Return a linear start with further rows; a name without a label of its own has the mean of its labels."""
    made = LinearStart(new, rank=len(start.basis)).to(start.unit.device)
    place = torch.tensor([old.start_row_of.get(name, len(old.start_rows)) for name in new.start_rows] + [-1])
    for name, buffer in start.named_buffers():
        axis = {"parts": 0, "variance": 0, "elsewhere": 0, "interaction": 1}.get(name)
        made.get_buffer(name).copy_(
            buffer if axis is None else buffer.index_select(axis, place.remainder(buffer.shape[axis]).to(buffer.device))
        )
    for row, name in enumerate(new.start_rows):
        alike = [label for label in rows if name in (label, *(t.name for t in new.treatments(label)))]
        if name in old.start_row_of or not alike:
            continue
        of_name = [name] if name in rows else alike
        for table, values in rows[of_name[0]].items():
            mean = torch.stack([rows[label][table] for label in of_name]).mean(0)
            made.get_buffer(table)[(row,) if table != "interaction" else (slice(None), row)] = mean.to(values)
    return made
