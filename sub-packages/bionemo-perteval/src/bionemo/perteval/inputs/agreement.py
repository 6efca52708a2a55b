"""Check that predicted and observed files agree: the same conditions, the same genes, enough cells."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile
from bionemo.screens.errors import InputError, choices, name_list
from bionemo.screens.labels import Condition

FEWEST = 2
"""Cells that a test needs of a population."""
SUBPOPULATION = 10
"""Cells that a subpopulation needs to be scored apart, if nothing else is said."""

Rows = Mapping[Condition, np.ndarray]
"""Condition -> rows of its cells."""


def check_observed(predicted: Rows, observed: Rows, keys: Keys, name: str) -> None:
    """Refuse conditions that were predicted but not observed, or observed without control cells.

    `name` is what messages call the observed file.
    """
    contexts = {context for context, _ in observed}
    if keys.control not in {perturbation for _, perturbation in observed}:
        raise InputError(
            f"Control label {keys.control!r} is not in column {keys.perturbation_key!r} of {name}, give another with "
            f"--control: {choices(keys.control, sorted({p for _, p in observed}))}"
        )
    for context, perturbation in predicted:
        if context not in contexts:
            raise InputError(
                f"Context {context!r} was predicted but is not in column {keys.scored_key!r} of {name}, rename it or "
                f"drop it from the prediction: {choices(context, sorted(contexts))}"
            )
        if (context, perturbation) not in observed:
            there = [p for c, p in observed if c == context]
            raise InputError(
                f"Perturbation {perturbation!r} was predicted for context {context!r} but {name} has no such cells, "
                f"rename it or drop it from the prediction: {choices(perturbation, there)}"
            )
    bare = sorted({context for context, _ in predicted if (context, keys.control) not in observed})
    if bare:
        raise InputError(
            f"{name} has no control cells ({keys.control!r}) in {', '.join(map(repr, bare))}; add them or drop these "
            "contexts from the prediction."
        )


def of_all_files(predictions: Sequence[Rows], observed: Rows, keys: Keys) -> list[Rows]:
    """Return the subpopulations that every file has cells of; which ones a prediction has is chance where few have any.

    Raises
    ------
    InputError
        Where there is none.
    """
    there = {condition for condition in observed if (condition[0], keys.control) in observed}
    there = there.intersection(*predictions)
    if not there:
        raise InputError(
            f"No subpopulation by {keys.within!r} has cells in every file; predictions take that column from their "
            "control cells, so give it to the file that they are predicted from."
        )
    return [{condition: rows for condition, rows in found.items() if condition in there} for found in predictions]


def too_small(predictions: Sequence[Rows], observed: Rows, control: str, min_cells: int | None) -> list[Condition]:
    """Return the predicted conditions that have fewer cells than `min_cells`, in any of the files.

    A condition also has too few where its context has too few control cells. The predictions have the same conditions.
    With None what cannot be tested is refused instead of left out.

    Raises
    ------
    InputError
        Naming every population of less than two observed cells, where nobody said what to do with them; or where no
        condition is left.
    """
    if min_cells is None:
        small = [
            f"{context} / {perturbation}"
            for context, perturbation in sorted({*predictions[0], *((c, control) for c, _ in predictions[0])})
            if observed[context, perturbation].size < FEWEST
        ]
        if small:
            raise InputError(
                f"{len(small)} observed populations have one cell, but a test needs at least two: {', '.join(small)}; "
                "drop these conditions from the prediction, or leave them out with --min-cells 2."
            )
        return []
    if min_cells < FEWEST:
        raise InputError(f"min_cells is {min_cells}, but a test needs at least {FEWEST} cells.")
    small = [
        condition
        for condition in predictions[0]
        if min(rows[condition].size for rows in (*predictions, observed)) < min_cells
        or observed[condition[0], control].size < min_cells
    ]
    if len(small) == len(predictions[0]):
        raise InputError(f"No predicted condition has {min_cells} cells in every file; lower --min-cells.")
    return small


def check_same_conditions(first: Rows, other: Rows, first_name: str, other_name: str) -> None:
    """Refuse predictions of different conditions, whose scores would not compare."""
    for here, there, has, lacks in ((first, other, first_name, other_name), (other, first, other_name, first_name)):
        absent = [condition for condition in here if condition not in there]
        if absent:
            context, perturbation = absent[0]
            raise InputError(
                f"{has} predicts {perturbation!r} in context {context!r} but {lacks} does not ({len(absent)} such "
                "conditions); predictions that are compared need the same conditions."
            )


def check_same_genes(first: CellFile, other: CellFile) -> None:
    """Refuse predictions on different gene panels; the order may differ."""
    for here, there in ((first, other), (other, first)):
        _check_unique_genes(here)
        absent = here.cells.var_names.difference(there.cells.var_names)
        if len(absent):
            raise InputError(
                f"{len(absent)} genes of {here.name} are not in {there.name}: {name_list(absent, 5)}; "
                "predictions that are compared need the same genes."
            )


def panel_columns(predicted: CellFile, observed: CellFile) -> np.ndarray:
    """Return where the prediction's genes stand in the observed file [G]; refuse genes that it does not have."""
    for file in (predicted, observed):
        _check_unique_genes(file)
    genes, known = predicted.cells.var_names, observed.cells.var_names
    columns = known.get_indexer(genes)
    missing = genes[columns < 0]
    if len(missing):
        raise InputError(
            f"{len(missing)} of {genes.size} predicted genes are not in {observed.name}, {name_list(missing, 5)}; use "
            f"the gene names of the file the model was trained on: {choices(str(missing[0]), known)}"
        )
    return columns


def _check_unique_genes(file: CellFile) -> None:
    genes = file.cells.var_names
    if not genes.is_unique:
        twice = [gene for gene, count in Counter(genes).items() if count > 1]
        raise InputError(
            f"Gene {twice[0]!r} occurs more than once in {file.name}; call var_names_make_unique() on both files."
        )
