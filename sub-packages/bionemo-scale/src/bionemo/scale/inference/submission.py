"""Lay predicted cells out as the Virtual Cell Challenge 2026 reads them, and check such a file.

What the challenge asks for is what cell-eval2 0.20.0 checks under its preset vcc2026: raw counts in ``X``, no cell with
more than a million, all genes of the panel in its order, and the targets in ``obs["target"]``, with control cells under
``non-targeting``. It knows no context: a file is of one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from bionemo.scale.inference.controls import ControlCells
from bionemo.scale.inference.generate import Prediction
from bionemo.scale.inference.inputs import Columns
from bionemo.scale.inference.populations import Population
from bionemo.screens.errors import InputError, name_list

TARGET, CONTROL = "target", "non-targeting"
MOST_COUNTS = 1_000_000
_ROWS = 4096


@dataclass(frozen=True)
class Submission:
    """A `Submission` is the layout of one file: the panel of genes, and where the model has each of them."""

    genes: tuple[str, ...]
    places: np.ndarray
    """int [genes of the panel], among the genes of the model."""

    @classmethod
    def of(
        cls, populations: Sequence[Population], cells: ControlCells, model_genes: Sequence[str], panel: Path | None
    ) -> "Submission":
        """Check that what is predicted, and the control cells, which are written as well, fit into a submission.

        The panel is a text file of the genes of the challenge, one a line, in their order; the model's own where None.
        An InputError says that there are several contexts, that the model was trained on log1p values, that the control
        cells lack genes, or the model lacks genes of the panel.
        """
        contexts = sorted({*cells.contexts, *(population.context for population in populations)})
        if len(contexts) > 1:
            raise InputError(
                f"a submission is of one context, and {cells.source} has control cells of {name_list(contexts, 5)}: "
                f"give the control cells of one."
            )
        if cells.vocabulary.kind != "counts":
            raise InputError(
                "a submission has raw counts, and the model was trained on log1p values, whose counts nobody knows: "
                "train it on counts."
            )
        if cells.filled_genes:
            raise InputError(
                f"a submission has counts of all genes, and {cells.source} lacks {name_list(cells.filled_genes, 5)}: "
                f"give control cells that were measured on all."
            )
        genes = tuple(model_genes) if panel is None else read_panel(panel)
        known = {gene: place for place, gene in enumerate(model_genes)}
        absent = [gene for gene in genes if gene not in known]
        if absent:
            raise InputError(
                f"the model lacks {len(absent):,} of {len(genes):,} genes of {panel}, {name_list(absent, 5)}: prepare "
                f"the training data with --all-genes."
            )
        return cls(genes, np.array([known[gene] for gene in genes]))

    def lay_out(
        self,
        predicted: Prediction,
        populations: Sequence[Population],
        cells: ControlCells,
        *,
        first: int,
        with_controls: bool,
        labels: Sequence[str],
    ) -> ad.AnnData:
        """Return predicted cells as whole counts, and all control cells after them where asked for.

        The cells come population after population, log1p on the count grid of their control cells. Of the whole file
        `first` cells lie before these, and `labels` are its targets.
        """
        used, place = np.unique(predicted.origin, return_inverse=True)
        parts = [self._counts(predicted.expression, cells.read(cells.rows[used])[1][place], cells)]
        targets = [population.perturbation for population in populations for _ in range(population.cells)]
        if with_controls:
            parts.append(self._counts(*cells.read(cells.rows), cells))
            targets += [CONTROL] * len(cells.rows)
        index = pd.Index([f"cell_{first + i}" for i in range(len(targets))])
        obs = pd.DataFrame({TARGET: pd.Categorical(targets, categories=[*labels, CONTROL])}, index=index)
        return ad.AnnData(
            sparse.csr_matrix(sparse.vstack(parts)), obs=obs, var=pd.DataFrame(index=pd.Index(self.genes))
        )

    def _counts(self, expression: sparse.csr_matrix, library: np.ndarray, cells: ControlCells) -> sparse.csr_matrix:
        """Return the whole counts of log1p values, float32 [n, genes of the panel]."""
        per_value = np.repeat(library / cells.vocabulary.target_sum, np.diff(expression.indptr))
        counts = np.rint(np.expm1(expression.data.astype(np.float64)) * per_value).astype(np.float32)
        whole = sparse.csr_matrix((counts, expression.indices, expression.indptr), shape=expression.shape)
        whole = sparse.csr_matrix(whole[:, self.places])
        whole.eliminate_zeros()
        return whole


def read_panel(path: Path) -> tuple[str, ...]:
    """Read the genes of a panel, one a line; an InputError where it cannot be read, is empty, or names a gene twice."""
    try:
        genes = tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--panel {path} cannot be read ({error}): give a text file with one gene a line.") from error
    if not genes:
        raise InputError(f"--panel {path} names no gene: give a text file with one gene a line.")
    twice = sorted(gene for gene, count in Counter(genes).items() if count > 1)
    if twice:
        raise InputError(f"--panel {path} names {name_list(twice, 5)} twice: name each gene once.")
    return genes


def read_targets(path: Path, control: str) -> dict[str, int]:
    """Read how many cells of each target are asked for, from a CSV file with the columns ``target`` and ``cells``.

    An InputError says that it cannot be read, has not these columns, names a target twice or the control cells, or asks
    for less than two cells of one, which no test can be made of.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--targets {path} cannot be read ({error}): give a CSV with columns target,cells.") from error
    if not {TARGET, "cells"} <= set(table.columns):
        raise InputError(
            f"--targets {path} has the columns {', '.join(map(str, table.columns))}: give a CSV with target,cells."
        )
    asked: dict[str, int] = {}
    for target, cells in zip(table[TARGET], table["cells"], strict=True):
        if target in asked or target in (control, CONTROL):
            said = "a second time" if target in asked else "though it is the label of the control cells"
            raise InputError(f"--targets {path} names {target!r} {said}: name each target once, and no control.")
        if not cells.isdigit() or int(cells) < 2:
            raise InputError(f"--targets {path} asks for {cells!r} cells of {target!r}: ask for a number from 2 on.")
        asked[target] = int(cells)
    if not asked:
        raise InputError(f"--targets {path} names no target.")
    return asked


def asked_like(targets: Mapping[str, int], cells: ControlCells, columns: Columns) -> ad.AnnData:
    """Return labels alone, as many of each target as asked for, in the context and batches of the control cells.

    The batches of a target have shares like those of the control cells.
    """
    order = np.argsort(cells.contexts if cells.batches is None else cells.batches, kind="stable")
    labels = np.repeat(list(targets), list(targets.values()))
    from_control = np.concatenate([order[(np.arange(n) * len(order)) // n] for n in targets.values()])
    obs = {columns.perturbation: labels, columns.context: cells.contexts[from_control]}
    if columns.batch is not None and cells.batches is not None:
        obs[columns.batch] = cells.batches[from_control]
    index = pd.Index([str(i) for i in range(len(labels))])
    return ad.AnnData(obs=pd.DataFrame(obs, index=index))


def check_submission(path: Path, genes: Sequence[str], targets: Mapping[str, int]) -> None:
    """Check an h5ad file as the challenge does, block by block, given the panel and the number of cells of each target.

    An InputError says that the genes are others or in another order, a target is missing, of another number of cells or
    not asked for, there are no control cells, or a value is no whole count.
    """
    cells = ad.read_h5ad(path, backed="r")
    try:
        if list(cells.var_names) != list(genes):
            raise InputError(f"{path} has other genes than the panel, or has them in another order.")
        if TARGET not in cells.obs:
            raise InputError(f"{path} has no obs column {TARGET!r}, where a submission names its targets.")
        there = cells.obs[TARGET].astype(str).value_counts().to_dict()
        if not there.pop(CONTROL, 0):
            raise InputError(f"{path} has no cell labelled {CONTROL!r}, and a submission has control cells.")
        for target in sorted({*there, *targets}):
            if there.get(target, 0) != targets.get(target, 0):
                raise InputError(
                    f"{path} has {there.get(target, 0):,} cells of {target!r}, and {targets.get(target, 0):,} were "
                    f"asked for."
                )
        for first in range(0, cells.n_obs, _ROWS):
            _check_counts(sparse.csr_matrix(cells.X[first : first + _ROWS]), path)  # type: ignore[index]
    finally:
        cells.file.close()


def _check_counts(counts: sparse.csr_matrix, path: Path) -> None:
    values = counts.data
    wrong = values[~(np.isfinite(values) & (values >= 0) & (values == np.rint(values)))]
    if len(wrong):
        raise InputError(f"{path} holds {wrong[0]:g}, which is no count, and a submission has raw counts.")
    most = float(np.asarray(counts.sum(axis=1)).max(initial=0.0))
    if most > MOST_COUNTS:
        raise InputError(f"{path} has a cell of {most:,.0f} counts, and a submission has at most {MOST_COUNTS:,}.")
