"""Find control cells in a file, and read them on the genes and the scale of a model."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.inference.genes import GeneMatch, MissingGenes, match_genes
from bionemo.scale.inference.inputs import Cells, Columns, OpenCells, has_key, opened, perturbations_of
from bionemo.screens.controls import ControlRole, ControlRoles
from bionemo.screens.errors import InputError
from bionemo.screens.obs import labels_of

ORIGIN = "control_cell"
"""The column of ``obs`` that names the control cell that a predicted cell started from."""


@dataclass(frozen=True, kw_only=True)
class ControlCells:
    """`ControlCells` are the cells that predictions start from: the control cells of role `input`, C of them.

    Their labels are in memory, and :meth:`read` reads their expression.
    """

    obs: pd.DataFrame
    """The file's own columns, and one for each key that joins several."""
    contexts: np.ndarray
    """str [C]"""
    batches: np.ndarray | None
    """str [C]; None where the model knows no batches, or the file says none."""
    roles: ControlRoles
    """Which control cells of the file have the role."""
    sizes: Counter[tuple[str, str | None]]
    """(context, batch) -> control cells of any role; the batch is None where `batches` is."""
    cells: OpenCells
    rows: np.ndarray
    """int [C], where they are among all cells."""
    match: GeneMatch
    vocabulary: Vocabulary
    fill_G: np.ndarray
    """log1p of genes that the file lacks."""
    notices: tuple[str, ...]

    @property
    def source(self) -> str:
        """Return what messages call the file."""
        return self.cells.source

    @property
    def filled_genes(self) -> tuple[str, ...]:
        """Return the genes of the model that the file lacks."""
        return self.match.missing

    def read(self, rows: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Read cells of the file, control cells or others, by their ascending rows among all, int [n].

        Return their expression, log1p float32 [n, G], the model's genes in the model's order, and the counts of each
        over all genes that were measured, float64 [n]; ones where the data came as log1p. An InputError says that the
        values are not on the model's scale, or that the file is damaged.
        """
        vocabulary = self.vocabulary
        values = self.cells.read(rows)
        _check_values(values, vocabulary, self.source)
        library, expression = np.ones(len(rows)), self.match.take(values)
        if vocabulary.kind == "counts":
            library = self.cells.library(rows, values)
            expression = sparse.csr_matrix(sparse.diags(vocabulary.target_sum / np.maximum(library, 1)) @ expression)
            expression.data = np.log1p(expression.data)
        return self.match.fill(sparse.csr_matrix(expression, dtype=np.float32), self.fill_G), library


def read_controls(
    cells: Cells,
    columns: Columns,
    vocabulary: Vocabulary,
    *,
    roles: ControlRoles,
    layer: str | None = None,
    missing_genes: MissingGenes | None = None,
    gene_mean_G: np.ndarray | None = None,
) -> ControlCells:
    """Find the cells that are labelled as control and have the role `input`; perturbed cells are left out.

    The batch column may be missing. The expression is counts or log1p, as in training, in the layer, or in ``X`` if
    none is given; for genes that the cells lack may stand in `missing_genes`, of which ``mean`` takes the mean log1p of
    the model's genes, [G]. An InputError says that a column, the layer, the control label or a gene is missing, that a
    cell has no label, or that there is a column ``control_cell`` already.
    """
    data = opened(cells, layer)
    obs, source = data.obs, data.source
    if ORIGIN in obs:
        raise InputError(
            f"{source} has an obs column {ORIGIN!r}, where predictions name the cell each started from: rename it."
        )
    labels = perturbations_of(obs, columns, source)
    chosen = labels == columns.control
    if not chosen.any():
        raise InputError(
            f"{source} has no control cells: none is labelled {columns.control!r} in obs[{columns.perturbation!r}], "
            f"which holds {', '.join(sorted(set(labels))[:8])}."
        )
    obs = obs.loc[chosen]
    contexts, batches, notices = labels_of(obs, columns.context, source), None, []
    if columns.batch is not None and has_key(obs, columns.batch):
        batches = labels_of(obs, columns.batch, source)
    elif columns.batch is not None:
        notices.append(
            f"{source} has no obs column {columns.batch!r}: populations start from their context's control cells of "
            f"any batch."
        )
    for key, joined in ((columns.context, contexts), (columns.batch, batches)):
        if joined is not None and key not in obs:
            obs = obs.assign(**{str(key): pd.Categorical(joined)})
    sizes = places(contexts, batches)
    is_input = roles.has(obs.index.astype(str), ControlRole.INPUT)
    data.check()
    match = match_genes(data.genes, vocabulary.genes, source, missing_genes)
    fill_G = np.zeros(len(vocabulary.genes)) if missing_genes is not MissingGenes.MEAN else gene_mean_G
    assert fill_G is not None
    return ControlCells(
        obs=obs.loc[is_input],
        contexts=contexts[is_input],
        batches=None if batches is None else batches[is_input],
        roles=roles,
        sizes=sizes,
        cells=data,
        rows=np.flatnonzero(chosen)[is_input],
        match=match,
        vocabulary=vocabulary,
        fill_G=fill_G,
        notices=(*notices, *match.notices),
    )


def places(contexts: np.ndarray, batches: np.ndarray | None) -> Counter[tuple[str, str | None]]:
    """Count the cells of every (context, batch); the batch is None where there are none."""
    return Counter(zip(contexts, [None] * len(contexts) if batches is None else batches, strict=True))


def _check_values(matrix: sparse.csr_matrix, vocabulary: Vocabulary, source: str) -> None:
    values = matrix.data
    if not np.isfinite(values).all():
        raise InputError(f"{source} holds NaN or infinite values: remove those cells.")
    if (values < 0).any():
        raise InputError(f"{source} holds the negative value {values.min():g}: give counts, not scaled expression.")
    if vocabulary.kind == "counts" and (values != np.rint(values)).any():
        wrong = values[values != np.rint(values)][0]
        raise InputError(
            f"{source} holds {wrong:g}, which is no count, and the model was trained on counts: give raw counts, or "
            f"name the layer that has them with --layer."
        )
    if vocabulary.kind == "log1p" and len(values) and (values == np.rint(values)).all():
        raise InputError(
            f"{source} looks like raw counts, and the model was trained on log1p data: normalise it first."
        )
