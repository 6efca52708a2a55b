"""Control cells from a file, on the genes and the scale of a model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.inference.files import labelled, missing_columns, read_h5ad
from bionemo.screens.errors import InputError
from bionemo.screens.obs import look_alikes


@dataclass(frozen=True)
class ControlCells:
    """Control cells of one file."""

    expression: sparse.csr_matrix
    """log1p [cells, G], the model's genes in the model's order."""
    library: np.ndarray
    """float64 [cells], counts of each cell over all genes of the file; ones where the data came as log1p."""
    obs: pd.DataFrame
    """The file's own columns, and one for a key that joins several; one row a cell."""
    notices: tuple[str, ...]


def read_controls(
    path: Path,
    vocabulary: Vocabulary,
    *,
    perturbation_key: str,
    context_key: str,
    batch_key: str | None = None,
    layer: str | None = None,
) -> ControlCells:
    """Read the cells labelled as control.

    Parameters
    ----------
    path
        h5ad file; may hold perturbed cells as well, which are left out.
    vocabulary
        The model's genes, control label and scale.
    perturbation_key, context_key
        Columns of ``obs``.
    batch_key
        Column of the batch, if the model was trained with one; the file may lack it.
    layer
        Where the expression is; ``X`` if not given.

    Raises
    ------
    InputError
        A column, the control label or a gene is missing, or the values are not on the model's scale.
    """
    cells = read_h5ad(path)
    keys, notices = [perturbation_key, context_key], []
    if batch_key is not None:
        absent = missing_columns(cells, batch_key)
        if absent:
            notices.append(
                f"{path} has no obs column {absent[0]!r}: populations start from their context's control cells of any "
                f"batch."
            )
        else:
            keys.append(batch_key)
    obs = labelled(cells, keys, path)
    labels = obs[perturbation_key].astype(str)
    chosen = (labels == vocabulary.control).to_numpy()
    if not chosen.any():
        raise InputError(
            f"{path} has no control cells: none is labelled {vocabulary.control!r} in obs[{perturbation_key!r}], "
            f"which holds {', '.join(sorted(labels.unique())[:8])}."
        )
    notices += look_alikes(sorted(set(labels)), perturbation_key, path, control=vocabulary.control)
    cells = cells[chosen]
    if layer is not None and layer not in cells.layers:
        raise InputError(f"{path} has no layer {layer!r}; it has {', '.join(cells.layers) or 'none'}.")
    if layer is None and cells.X is None:
        raise InputError(f"{path} has no X; name one of its layers with --layer: {', '.join(cells.layers) or 'none'}.")
    matrix = sparse.csr_matrix(cells.X if layer is None else cells.layers[layer])  # type: ignore[arg-type]
    _check_values(matrix, vocabulary, path)
    columns, about_genes = _gene_columns(cells.var_names, vocabulary, path)

    if vocabulary.kind == "counts":
        library = np.asarray(matrix.sum(1), dtype=np.float64).ravel()
        scale = vocabulary.target_sum / np.maximum(library, 1)
        expression = sparse.csr_matrix(sparse.diags(scale) @ matrix[:, columns])
        expression.data = np.log1p(expression.data)
    else:
        library = np.ones(int(chosen.sum()))
        expression = sparse.csr_matrix(matrix[:, columns])
    expression = sparse.csr_matrix(expression, dtype=np.float32)
    return ControlCells(expression, library, obs.loc[chosen], (*notices, *about_genes))


def _gene_columns(names: pd.Index, vocabulary: Vocabulary, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Where the model's genes are in the file."""
    if names.has_duplicates:
        raise InputError(f"{path} lists gene {names[names.duplicated()][0]!r} more than once: make var_names unique.")
    columns = names.get_indexer(pd.Index(vocabulary.genes))
    missing = [gene for gene, column in zip(vocabulary.genes, columns, strict=True) if column < 0]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError(
            f"{path} lacks {len(missing)} of the model's {len(columns)} genes ({shown}): give cells that were measured "
            f"on the genes the model was trained on."
        )
    extra = len(names) - len(columns)
    notices = []
    if extra:
        notices.append(f"{extra} genes of {path} are not the model's and were left out.")
    elif not np.array_equal(columns, np.arange(len(columns))):
        notices.append(f"the genes of {path} were put in the model's order.")
    return columns, tuple(notices)


def _check_values(matrix: sparse.csr_matrix, vocabulary: Vocabulary, path: Path) -> None:
    values = matrix.data
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds NaN or infinite values: remove those cells.")
    if (values < 0).any():
        raise InputError(f"{path} holds the negative value {values.min():g}: give counts, not scaled expression.")
    if vocabulary.kind == "counts" and (values != np.rint(values)).any():
        wrong = values[values != np.rint(values)][0]
        raise InputError(
            f"{path} holds {wrong:g}, which is no count, and the model was trained on counts: give raw counts, or name "
            f"the layer that has them with --layer."
        )
    if vocabulary.kind == "log1p" and len(values) and (values == np.rint(values)).all():
        raise InputError(f"{path} looks like raw counts, and the model was trained on log1p data: normalise it first.")
