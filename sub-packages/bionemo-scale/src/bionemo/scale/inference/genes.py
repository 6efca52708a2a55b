"""Find a model's genes in a file, and fill those that the file lacks where it was told to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from bionemo.scale.config.prediction import MissingGenes
from bionemo.screens.errors import InputError, name_list

MOST_FILLED = 0.1
"""No larger share of a model's genes is filled."""


@dataclass(frozen=True)
class GeneMatch:
    """A `GeneMatch` says where each of a model's G genes is in a file."""

    columns: np.ndarray
    """int [G], the file's column of each gene; -1 where the file lacks it."""
    missing: tuple[str, ...]
    notices: tuple[str, ...]

    def take(self, matrix: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the genes that the file has, in the model's order, [cells, genes there]."""
        return sparse.csr_matrix(matrix[:, self.columns[self.columns >= 0]])

    def fill(self, expression: sparse.csr_matrix, values_G: np.ndarray) -> sparse.csr_matrix:
        """Put values of missing genes, log1p [G], into cells, log1p as `take` orders them; return log1p [cells, G]."""
        if not self.missing:
            return expression
        order = np.argsort(self.columns < 0, kind="stable")  # genes that are there, then those that are not
        absent_G = values_G[self.columns < 0].astype(np.float32)
        filled = sparse.csr_matrix(np.tile(absent_G, (len(expression.indptr) - 1, 1)))
        joined = sparse.csr_matrix(sparse.hstack([expression, filled]))
        return sparse.csr_matrix(joined[:, np.argsort(order)])


def match_genes(names: pd.Index, genes: Sequence[str], source: str, missing: MissingGenes | None) -> GeneMatch:
    """Find a model's genes among the names of a file, which messages call `source`.

    An InputError says that the file lists a gene twice, or lacks some of the model's: any where nothing may stand in
    for missing ones, more than `MOST_FILLED` where something may.
    """
    if names.has_duplicates:
        raise InputError(f"{source} lists gene {names[names.duplicated()][0]!r} more than once: make var_names unique.")
    columns = names.get_indexer(pd.Index(genes))
    absent = tuple(gene for gene, column in zip(genes, columns, strict=True) if column < 0)
    notices = []
    if absent:
        lacks = f"{source} lacks {len(absent)} of the model's {len(genes)} genes ({name_list(absent, 5)})"
        if len(absent) > MOST_FILLED * len(genes):
            raise InputError(
                f"{lacks}, and no more than {MOST_FILLED:.0%} may be filled: give cells that were measured on the "
                f"genes the model was trained on."
            )
        if missing is None:
            raise InputError(
                f"{lacks}: give cells that were measured on the genes the model was trained on, or let --missing-genes "
                f"zero or mean stand in for them."
            )
        with_what = "no expression" if missing is MissingGenes.ZERO else "the mean of the training cells"
        notices.append(f"{lacks}: {with_what} stands in for them, and what is predicted of them is no finding.")
    extra = len(names) - (len(columns) - len(absent))
    if extra:
        notices.append(f"{extra} genes of {source} are not the model's and were left out.")
    elif not absent and not np.array_equal(columns, np.arange(len(columns))):
        notices.append(f"the genes of {source} were put in the model's order.")
    return GeneMatch(columns, absent, tuple(notices))
