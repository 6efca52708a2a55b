"""What can be wrong with the two files, each refused in one sentence, and the arrays that are left when nothing is."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp

from bionemo.screens.errors import InputError, nearest
from bionemo.screens.labels import Condition

LOG1P_LIMIT = 15.0
"""cell-eval takes values from here on for counts."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Where the two files keep what is needed.

    Attributes
    ----------
    perturbation_key, context_key
        Columns of `obs`.
    control
        Label of control cells.
    target_sum
        Counts per cell before log1p, needed where the observed file holds counts.
    layer
        Layer of the observed file; None for `X`.
    """

    perturbation_key: str
    context_key: str
    control: str
    target_sum: float | None
    layer: str | None

    @classmethod
    def resolve(cls, prediction: dict[str, Any], given: dict[str, Any]) -> "Keys":
        """Take what was given, else what the prediction's `uns["prediction"]` says.

        Parameters
        ----------
        prediction
            ``predicted.uns["prediction"]``, empty where there is none.
        given
            Arguments of `evaluate` by name; None where not given.

        Raises
        ------
        InputError
            Where neither names a column or the control label.
        """
        values = {name: prediction.get(name) if value is None else value for name, value in given.items()}
        for name in ("perturbation_key", "context_key", "control"):
            if values[name] in (None, ""):
                flag = "--" + name.replace("_", "-")
                raise InputError(
                    f"{name} is not known: the prediction has no uns['prediction']['{name}'], so give {flag}."
                )
        target_sum = values["target_sum"]
        return cls(
            perturbation_key=str(values["perturbation_key"]),
            context_key=str(values["context_key"]),
            control=str(values["control"]),
            target_sum=None if target_sum in (None, "") else float(target_sum),  # type: ignore[arg-type]
            layer=str(values["layer"]) if values["layer"] not in (None, "") else None,
        )


def labels(cells: ad.AnnData, keys: Keys, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return contexts [N] and perturbations [N] as strings; a key ``A+B`` that is no column joins two that are."""
    found = []
    for key, flag in ((keys.context_key, "--context-key"), (keys.perturbation_key, "--perturbation-key")):
        columns = [key] if key in cells.obs or "+" not in key else key.split("+")
        joined: list[str] = [""] * cells.n_obs
        for i, column in enumerate(columns):
            values = _column(cells, column, flag, name)
            joined = [f"{left}+{right}" for left, right in zip(joined, values, strict=True)] if i else values
        found.append(np.array(joined, dtype=str))
    return found[0], found[1]


def _column(cells: ad.AnnData, column: str, flag: str, name: str) -> list[str]:
    if column not in cells.obs:
        raise InputError(f"{name} has no column {column!r} in obs{nearest(column, cells.obs.columns)}; give {flag}.")
    values = cells.obs[column]
    empty = int(values.isna().sum())
    if empty:
        raise InputError(f"Column {column!r} of {name} has {empty} empty values; fill or drop those cells.")
    return values.astype(str).tolist()


def group(labels: tuple[np.ndarray, np.ndarray]) -> dict[Condition, np.ndarray]:
    """Return condition -> rows, sorted by condition."""
    contexts, perturbations = labels
    context_names, context_code = np.unique(contexts, return_inverse=True)
    perturbation_names, perturbation_code = np.unique(perturbations, return_inverse=True)
    code = context_code * perturbation_names.size + perturbation_code
    order = np.argsort(code, kind="stable")
    values, starts = np.unique(code[order], return_index=True)
    groups = {}
    for value, index in zip(values, np.split(order, starts[1:]), strict=True):
        context, perturbation = divmod(int(value), perturbation_names.size)
        groups[str(context_names[context]), str(perturbation_names[perturbation])] = index
    return groups


def check_conditions(
    wanted: dict[Condition, np.ndarray], rows: dict[Condition, np.ndarray], keys: Keys, name: str
) -> None:
    """Refuse what was predicted but not observed, and what cannot be tested."""
    contexts = {context for context, _ in rows}
    for context, perturbation in wanted:
        if context not in contexts:
            raise InputError(
                f"Context {context!r} was predicted but is not in column {keys.context_key!r} of {name}"
                f"{nearest(context, contexts)}; rename it or drop it from the prediction."
            )
        if (context, perturbation) not in rows:
            there = [p for c, p in rows if c == context]
            raise InputError(
                f"Perturbation {perturbation!r} was predicted for context {context!r} but {name} has no such cells"
                f"{nearest(perturbation, there)}; rename it or drop it from the prediction."
            )
        for label in (perturbation, keys.control):
            cells = rows[context, label].size if (context, label) in rows else 0
            if cells == 0:
                raise InputError(
                    f"Context {context!r} has no control cells ({label!r}) in {name}; add them or drop the context "
                    "from the prediction."
                )
            if cells < 2:
                raise InputError(
                    f"{name} has one cell of {label!r} in context {context!r}, but a test needs at least two; drop it "
                    "from the prediction."
                )


def check_same_conditions(
    first: dict[Condition, np.ndarray], other: dict[Condition, np.ndarray], first_name: str, other_name: str
) -> None:
    """Refuse predictions of different conditions: their scores would not compare."""
    for here, there, has, lacks in ((first, other, first_name, other_name), (other, first, other_name, first_name)):
        absent = [condition for condition in here if condition not in there]
        if absent:
            context, perturbation = absent[0]
            raise InputError(
                f"{has} predicts {perturbation!r} in context {context!r} but {lacks} does not ({len(absent)} such "
                "conditions); predictions that are compared need the same conditions."
            )


def check_same_genes(first: ad.AnnData, other: ad.AnnData, first_name: str, other_name: str) -> None:
    """Refuse predictions on different gene panels; the order may differ."""
    for cells, name in ((first, first_name), (other, other_name)):
        _check_unique_genes(cells, name)
    for here, there, has, lacks in ((first, other, first_name, other_name), (other, first, other_name, first_name)):
        absent = here.var_names.difference(there.var_names)
        if len(absent):
            raise InputError(
                f"{len(absent)} genes of {has} are not in {lacks}: {', '.join(map(str, absent[:5]))}; predictions that "
                "are compared need the same genes."
            )


def panel(
    predicted: ad.AnnData, observed: ad.AnnData, predicted_name: str, observed_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the prediction's genes [G] and their columns in the observed file [G]."""
    for cells, name in ((predicted, predicted_name), (observed, observed_name)):
        _check_unique_genes(cells, name)
    columns = observed.var_names.get_indexer(predicted.var_names)
    missing = predicted.var_names[columns < 0]
    if len(missing):
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(
            f"{len(missing)} of {predicted.n_vars} predicted genes are not in {observed_name}: {shown}"
            f"{nearest(str(missing[0]), observed.var_names)}; use the gene names of the file the model was trained on."
        )
    return predicted.var_names.to_numpy(str), columns


def _check_unique_genes(cells: ad.AnnData, name: str) -> None:
    if not cells.var_names.is_unique:
        twice = [gene for gene, count in Counter(cells.var_names).items() if count > 1]
        raise InputError(
            f"Gene {twice[0]!r} occurs more than once in {name}; call var_names_make_unique() on both files."
        )


def _csr(matrix: Any, name: str) -> sp.csr_matrix:
    """Return the values as CSR without NaN, infinite or negative ones; not to be changed, they may be the caller's."""
    if matrix is None:
        raise InputError(f"{name} has no X; write the expression there, or name a layer with --layer.")
    csr = sp.csr_matrix(matrix)
    if not csr.data.all() or not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
        csr.eliminate_zeros()
    if not np.isfinite(csr.data).all():
        bad = int((~np.isfinite(csr.data)).sum())
        raise InputError(f"{name} has {bad} values that are NaN or infinite; drop those cells or genes.")
    if csr.data.size and csr.data.min() < 0:
        raise InputError(
            f"{name} has negative values (lowest {csr.data.min():.3g}), but expression starts at 0; clip at 0."
        )
    return csr


def _is_integer(csr: sp.csr_matrix) -> bool:
    return bool(np.all(csr.data == np.rint(csr.data)))


def log1p_matrix(predicted: ad.AnnData, name: str) -> sp.csr_matrix:
    """Return the predicted cells, refused where they are not log1p."""
    csr = _csr(predicted.X, name)
    if csr.data.size and _is_integer(csr):
        raise InputError(
            f"{name} holds integers (up to {csr.data.max():g}), which are counts, not log1p; normalise and log1p it."
        )
    if csr.data.size and csr.data.max() >= LOG1P_LIMIT:
        raise InputError(
            f"{name} has a value of {csr.data.max():.4g}, but log1p values stay below {LOG1P_LIMIT:g}; take log1p of "
            "the normalised counts."
        )
    return sp.csr_matrix(csr, dtype=np.float32)


def observed_matrix(observed: ad.AnnData, layer: str | None, name: str) -> tuple[sp.csr_matrix, str]:
    """Return the observed values and whether they are ``"counts"`` or ``"log1p"``."""
    if layer is not None and layer not in observed.layers:
        raise InputError(f"{name} has no layer {layer!r}{nearest(layer, observed.layers.keys())}; give --layer.")
    where = name if layer is None else f"layer {layer!r} of {name}"
    csr = _csr(observed.X if layer is None else observed.layers[layer], where)
    if not csr.data.size:
        raise InputError(f"{where} holds nothing but zeros; choose the right layer with --layer.")
    if _is_integer(csr):
        return csr, "counts"
    if csr.data.max() >= LOG1P_LIMIT:
        raise InputError(
            f"{where} holds neither counts (it has fractions) nor log1p values (it reaches {csr.data.max():.4g}); give "
            "raw counts or log1p of normalised counts."
        )
    return csr, "log1p"
