"""Let cell-eval compute its metrics from tests and mean cells that were made here.

cell-eval does not get the cells, so its cost does not grow with them. It logs, prints bars and skips metrics that fail;
here it is silent and an error is an error. It is imported when first called, because it brings scanpy with it.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterator

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl

from bionemo.perteval.metrics.formulas import constant
from bionemo.perteval.metrics.sides import Side

_PERTURBATION = "perturbation"

_MOST_AT_ONCE = 64
"""Perturbations in one call of cell-eval, some of whose metrics take time with the square of their number."""


def cell_eval(predicted: Side, observed: Side, names: Collection[str]) -> pd.DataFrame:
    """Let cell-eval compute several metrics, by their names in its results, in one go.

    Both sides have the same labels and the same genes, in the same order.

    Returns
    -------
    pd.DataFrame
        Index: perturbation, in the order of the sides; columns: `names`; NaN where a metric has no value.
    """
    parts = []
    for start in range(0, len(observed.perturbations), _MOST_AT_ONCE):
        some = slice(start, start + _MOST_AT_ONCE)
        cells = [_mean_cells(side, some) for side in (predicted, observed)]
        tests = [_test_table(side, some) for side in (predicted, observed)]
        parts.append(_call(cells, tests, observed.control, names))
    # A metric that no perturbation has a value for gives no column.
    scores = pd.concat(parts).reindex(index=observed.perturbations, columns=list(names)).astype(float)
    if "pearson_delta" in scores:  # cell-eval would correlate the rounding of a shift that is zero
        scores.loc[constant(predicted.delta), "pearson_delta"] = np.nan
    return scores


def _mean_cells(side: Side, some: slice) -> ad.AnnData:
    """Return mean cells as cell-eval reads them: of a single row the mean is the row."""
    labels = [side.control, *side.perturbations[some]]
    obs = pd.DataFrame({_PERTURBATION: labels}, index=pd.Index([str(i) for i in range(len(labels))]))
    matrix = np.concatenate([side.control_mean[None], side.means[some]])
    return ad.AnnData(X=matrix, obs=obs, var=pd.DataFrame(index=pd.Index(side.genes.astype(str))))


def _test_table(side: Side, some: slice) -> pl.DataFrame:
    """Return tests as cell-eval reads them: target, feature, fold_change, p_value, fdr."""
    names, tests = side.perturbations[some], side.tests[some]
    return pl.DataFrame(
        {
            "target": np.repeat(np.asarray(names, dtype=object), side.genes.size),
            "feature": np.tile(side.genes.astype(object), len(names)),
            "fold_change": np.concatenate([tested.fold_change for tested in tests]),
            "p_value": np.concatenate([tested.p_value for tested in tests]),
            "fdr": side.rates[some].ravel(),
        }
    )


def _call(cells: list[ad.AnnData], tests: list[pl.DataFrame], control: str, names: Collection[str]) -> pd.DataFrame:
    """Call cell-eval with mean cells and tests of the predicted and of the observed side."""
    wanted = {name.removesuffix("_real").removesuffix("_pred") for name in names}
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        from cell_eval import MetricsEvaluator
        from cell_eval.metrics import metrics_registry

        evaluator = MetricsEvaluator(
            adata_pred=cells[0],
            adata_real=cells[1],
            de_pred=tests[0],
            de_real=tests[1],
            control_pert=control,
            pert_col=_PERTURBATION,
            outdir=scratch,
            allow_discrete=True,  # the scale was checked on the cells; mean cells may happen to be whole numbers
        )
        results, _ = evaluator.compute(
            profile="full",
            skip_metrics=[name for name in metrics_registry.list_metrics() if name not in wanted],
            write_csv=False,
            break_on_error=True,
        )
    return pd.DataFrame(results.to_dict(as_series=False)).set_index("perturbation")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the bars (written to stderr) and logs of cell-eval, and undo the log handler that pdex installs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    import cell_eval  # noqa: F401

    root.handlers[:] = handlers
    root.setLevel(level)
    disabled = root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
