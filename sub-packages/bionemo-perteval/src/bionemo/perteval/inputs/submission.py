"""Read predicted and observed cells as whole counts, as the Virtual Cell Challenge 2026 has them.

A prediction may be a submission, which holds counts under the challenge's labels, or an own file, which holds log1p
values and names the control cell of each predicted cell: that cell's library size gives the counts back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.perteval.inputs.agreement import check_observed
from bionemo.perteval.inputs.expression import LOG1P_LIMIT, canonical, check_there, groups_of, layer_name
from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.labels import rows_by_condition
from bionemo.perteval.inputs.reading import CellFile
from bionemo.perteval.inputs.scratch import ScratchCells
from bionemo.perteval.inputs.stored import blocks_of, names_of
from bionemo.screens.errors import InputError, name_list
from bionemo.screens.labels import Condition
from bionemo.screens.obs import labels_of, text_of

TARGET, CONTROL = "target", "non-targeting"
"""Column and control label of a submission."""

MOST_COUNTS = 1_000_000
"""Counts that a cell of a submission may have."""

ONE_LINE = "the line"
"""What the only context is called where no column names it."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A `Counted` holds the cells of a file as whole counts, on the genes of the observed file."""

    cells: ScratchCells
    """Whole counts, float32 [N, G]."""
    rows: Mapping[Condition, np.ndarray]
    """(context, perturbation) -> rows of its cells."""

    def counts(self, context: str, perturbation: str) -> sp.csr_matrix:
        """Return the counts of a condition, float64 [n, G]."""
        return sp.csr_matrix(self.cells[self.rows[context, perturbation]], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class RealCells(Counted):
    """`RealCells` are the observed cells."""

    name: str
    """What messages call the file."""
    genes: pd.Index
    """Names [G]."""
    control: str
    """Label of the control cells."""
    keyed: bool
    """Whether a column names the contexts."""
    library: Mapping[tuple[str, str], float]
    """(context, name of a control cell) -> its counts over all genes."""

    @property
    def contexts(self) -> list[str]:
        """Return the contexts that have control cells."""
        return [context for context, label in self.rows if label == self.control]


def is_submission(file: CellFile) -> bool:
    """Say whether a prediction is in the challenge's layout: it does not name the control cell of each cell."""
    return "control_cell" not in file.cells.obs.columns


def read_real(file: CellFile, given: Mapping[str, Any], stated: Mapping[str, Any]) -> RealCells:
    """Read the observed cells: whole counts, of all genes of the challenge.

    `given` are perturbation_key, control, context_key and layer, as `evaluate` has them. What the prediction says of
    its columns, in `stated`, is taken where the file has them.

    Raises
    ------
    InputError
        A value is no whole count, or a column is missing.
    """
    known = stated if str(stated.get("perturbation_key")) in file.cells.obs.columns else {}
    said = {name: value or known.get(name) for name, value in given.items() if name != "layer"}
    label, control = str(said["perturbation_key"] or TARGET), str(said["control"] or CONTROL)
    rows = _rows(file, label, said["context_key"], control)
    where = layer_name(file, given["layer"])
    cells, library = ScratchCells(groups_of(rows, file), file.cells.var_names.size), [np.zeros(0)]
    for block in map(canonical, blocks_of(file.cells, given["layer"])):
        _check_whole(block, where, "log1p values are no use here; name the layer of the raw counts with --layer")
        cells.append(sp.csr_matrix(block, dtype=np.float32))
        library.append(np.asarray(block.sum(axis=1, dtype=np.float64)).ravel())
    check_there(cells, where)
    sizes = np.concatenate(library)
    named = {
        (context, str(name)): float(size)
        for (context, perturbation), of in rows.items()
        if perturbation == control
        for name, size in zip(names_of(file.cells, of), sizes[of], strict=True)
    }
    return RealCells(
        cells=cells,
        rows=rows,
        name=file.name,
        genes=file.cells.var_names,
        control=control,
        keyed=said["context_key"] is not None,
        library=named,
    )


def read_counted(file: CellFile, real: RealCells) -> Counted:
    """Read a prediction, and refuse what the challenge does not take.

    Raises
    ------
    InputError
        Genes or targets are others than the observed ones, a target has another number of cells, values are on the
        wrong scale, or the library size of a cell is not known.
    """
    _check_genes(file, real)
    if is_submission(file):
        rows = _rows(file, TARGET, None, CONTROL)
        if len(real.contexts) != 1:
            raise InputError(
                f"{file.name} is a submission, which is of one line, and {real.name} has control cells of "
                f"{name_list(real.contexts, 5)}: give the observed cells of that line, "
                f"with control cells labelled {real.control!r}."
            )
        if (ONE_LINE, CONTROL) not in rows:
            raise InputError(
                f"{file.name} has no cell labelled {CONTROL!r} in obs column {TARGET!r}, and a submission has control "
                "cells: write it with bionemo-scale predict --format vcc2026."
            )
        context = real.contexts[0]
        perturbed = {(context, name): of for (_, name), of in rows.items() if name != CONTROL}
    else:
        said = file.stated
        if not said.get("perturbation_key") or not said.get("target_sum"):
            raise InputError(
                f"{file.name} names its control cells, but uns['prediction'] does not say its perturbation_key and "
                "target_sum: predict it again, or write a submission with --format vcc2026."
            )
        rows = _rows(file, str(said["perturbation_key"]), said.get("context_key") if real.keyed else None, None)
        perturbed = {condition: of for condition, of in rows.items() if condition[1] != said.get("control")}
    _check_conditions(perturbed, file, real)
    cells = ScratchCells(groups_of(perturbed, file), real.genes.size)
    if is_submission(file):
        for block in map(canonical, blocks_of(file.cells, None)):
            _check_whole(block, file.name, "a submission has raw counts: write it with --format vcc2026")
            most = float(np.asarray(block.sum(axis=1)).max(initial=0.0))
            if most > MOST_COUNTS:
                raise InputError(
                    f"{file.name} has a cell of {most:,.0f} counts, and a submission has at most {MOST_COUNTS:,}."
                )
            cells.append(sp.csr_matrix(block, dtype=np.float32))
    else:
        _append_counts(cells, file, perturbed, real)
    check_there(cells, file.name)
    return Counted(cells=cells, rows=perturbed)


def _append_counts(cells: ScratchCells, file: CellFile, rows: Mapping[Condition, np.ndarray], real: RealCells) -> None:
    """Append log1p values as the counts that they stand for, at the library size of each cell's control cell."""
    scale = _library(file, rows, real) / float(file.stated["target_sum"])
    columns, done, fractions = file.cells.var_names.get_indexer(real.genes), 0, False
    for block in map(canonical, blocks_of(file.cells, None)):
        if not np.isfinite(block.data).all() or block.data.min(initial=0.0) < 0:
            raise InputError(f"{file.name} has values that are NaN, infinite or negative; predict it again.")
        if block.data.max(initial=0.0) >= LOG1P_LIMIT:
            raise InputError(_no_log1p(file, f"has a value of {block.data.max():.4g}"))
        fractions = fractions or not np.array_equal(block.data, np.rint(block.data))
        per_value = np.repeat(scale[done : done + block.indptr.size - 1], np.diff(block.indptr))
        counts = np.rint(np.expm1(block.data.astype(np.float64)) * per_value).astype(np.float32)
        whole = sp.csr_matrix((counts, block.indices, block.indptr), shape=block.shape)
        whole = sp.csr_matrix(whole[:, columns])
        whole.eliminate_zeros()
        cells.append(whole)
        done += block.indptr.size - 1
    if cells.rows and not fractions:
        raise InputError(_no_log1p(file, "holds whole numbers"))


def _library(file: CellFile, rows: Mapping[Condition, np.ndarray], real: RealCells) -> np.ndarray:
    """Return the counts of the control cell that each predicted cell started from [N]."""
    names, library = text_of(file.cells.obs["control_cell"]), np.zeros(file.cells.n_obs)
    for (context, _), of in rows.items():
        for row in of:
            size = real.library.get((context, names[row]))
            if size is None:
                raise InputError(
                    f"{file.name} started from the control cell {names[row]!r}, which {real.name} does not have among "
                    f"those of {context!r}: give the file that its control cells came from."
                )
            library[row] = size
    return library


def _rows(file: CellFile, label: str, context_key: str | None, control: str | None) -> dict[Condition, np.ndarray]:
    if context_key is not None:
        keys = Keys(perturbation_key=label, context_key=context_key, control=control or "", target_sum=None, layer=None)
        return rows_by_condition(file, keys)[0]
    obs: Any = file.cells.obs
    names = labels_of(obs, label, file.name)
    return {(ONE_LINE, str(name)): np.flatnonzero(names == name) for name in np.unique(names.astype(str))}


def _check_genes(file: CellFile, real: RealCells) -> None:
    genes = file.cells.var_names
    for absent, said in ((real.genes.difference(genes), "lacks"), (genes.difference(real.genes), "has other genes,")):
        if len(absent):
            raise InputError(
                f"{file.name} {said} {len(absent):,} beside the {real.genes.size:,} genes of {real.name}, "
                f"{name_list(absent, 5)}: predict all genes of the panel (prepare --all-genes, predict --panel)."
            )
    if is_submission(file) and not genes.equals(real.genes):
        raise InputError(
            f"{file.name} has the genes of {real.name} in another order, and a submission has them in that of the "
            "panel: name it with predict --panel."
        )


def _check_conditions(perturbed: Mapping[Condition, np.ndarray], file: CellFile, real: RealCells) -> None:
    keys = Keys(perturbation_key=TARGET, context_key="context", control=real.control, target_sum=None, layer=None)
    check_observed(perturbed, real.rows, keys, real.name)
    if is_submission(file):
        asked = {condition for condition in real.rows if condition[1] != real.control}
        absent = sorted(name for _, name in asked - set(perturbed))
        if absent:
            raise InputError(
                f"{file.name} lacks {len(absent)} of {len(asked)} targets of {real.name}, {name_list(absent, 5)}: a "
                "submission has all of them."
            )
    for condition, of in perturbed.items():
        asked_for = real.rows[condition].size
        if of.size != asked_for or of.size < 2:
            raise InputError(
                f"{file.name} has {of.size:,} cells of {condition[1]!r}, and {real.name} asks for {asked_for:,}: "
                "predict as many (at least two), with --targets or --like."
            )


def _check_whole(block: sp.csr_matrix, where: str, mend: str) -> None:
    wrong = block.data[~(np.isfinite(block.data) & (block.data >= 0) & (block.data == np.rint(block.data)))]
    if wrong.size:
        raise InputError(f"{where} holds {wrong[0]:g}, which is no whole count: {mend}.")


def _no_log1p(file: CellFile, what: str) -> str:
    return (
        f"{file.name} {what}, which are counts, but it says that its values are log1p of {file.stated['target_sum']} "
        "counts per cell: give log1p values, or a submission without uns['prediction']."
    )
