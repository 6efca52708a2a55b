"""cell-eval and pdex behind two calls: `side` tests a population, `score` compares two.

Both libraries log, print bars and (cell-eval) skip metrics that fail; here they are silent and an error is an error.
They are imported when first called, because they bring scanpy and numba with them.
"""

import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp

from bionemo.perteval.metrics import METRICS
from bionemo.perteval.screen import cell_count

PERTURBATION = "perturbation"
"""Column of `obs` that holds the label in the AnnData built here."""

_SHARED_MEMORY = "/dev/shm"
_PACKAGES = ("bionemo-perteval", "cell-eval", "pdex", "anndata", "numpy", "scipy", "polars", "pandas")


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the numbers."""
    return {name: version(name) for name in _PACKAGES}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison: the cells of one context and their differential expression.

    Attributes
    ----------
    cells
        Control cells and the cells of each perturbation, log1p; ``obs["perturbation"]`` has the labels.
    control
        Label of the control cells.
    differential_expression
        One row per (target, feature) with fold_change, p_value, fdr.
    """

    cells: ad.AnnData
    control: str
    differential_expression: pl.DataFrame


def side(
    control_cells: sp.csr_matrix, control: str, cells: dict[str, sp.csr_matrix], genes: np.ndarray, *, processes: int
) -> Side:
    """Join control and perturbed cells of one context, as cell-eval wants them, and test every gene (pdex).

    Parameters
    ----------
    control_cells
        Control cells, log1p [n, G].
    control
        Their label.
    cells
        Perturbation -> its cells, log1p [n, G].
    genes
        Gene names [G].
    processes
        Worker processes of the tests. pdex forks them and shares one dense copy of the matrix through shared memory;
        with 1, or where shared memory is too small for it (containers often have 64 MB), the same tests run in this
        process.
    """
    labels = [control, *cells]
    parts = [control_cells, *cells.values()]
    obs = pd.DataFrame({PERTURBATION: np.repeat(labels, [cell_count(part) for part in parts])})
    obs.index = obs.index.astype(str)
    matrix = sp.csr_matrix(sp.vstack(parts, format="csr"), dtype=np.float32)
    joined = ad.AnnData(X=matrix, obs=obs, var=pd.DataFrame(index=pd.Index(genes.astype(str))))
    return Side(cells=joined, control=control, differential_expression=_test(joined, control, processes))


def score(predicted: Side, observed: Side) -> pd.DataFrame:
    """Score one context with cell-eval.

    Parameters
    ----------
    predicted, observed
        The same labels, and the same genes in the same order.

    Returns
    -------
    pd.DataFrame
        Index: perturbation. Columns: the names of `METRICS`; NaN where there is no value.
    """
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        _import_quietly()
        from cell_eval import MetricsEvaluator
        from cell_eval.metrics import metrics_registry

        wanted = {metric.source.removesuffix("_real").removesuffix("_pred") for metric in METRICS}
        evaluator = MetricsEvaluator(
            adata_pred=predicted.cells,
            adata_real=observed.cells,
            de_pred=predicted.differential_expression,
            de_real=observed.differential_expression,
            control_pert=observed.control,
            pert_col=PERTURBATION,
            outdir=scratch,
        )
        results, _ = evaluator.compute(
            profile="full",
            skip_metrics=[name for name in metrics_registry.list_metrics() if name not in wanted],
            write_csv=False,
            break_on_error=True,
        )
    frame = pd.DataFrame(results.to_dict(as_series=False)).set_index("perturbation")
    # A metric that no perturbation has a value for gives no column.
    frame = frame.reindex(columns=[metric.source for metric in METRICS]).astype(float)
    return frame.rename(columns={metric.source: metric.name for metric in METRICS}).sort_index()


def _test(cells: ad.AnnData, control: str, processes: int) -> pl.DataFrame:
    """Test every gene of every perturbation against the control cells: Mann-Whitney, Benjamini-Hochberg."""
    with _quiet():
        _import_quietly()
        from pdex import parallel_differential_expression

        dense_bytes = int(np.prod(cells.shape)) * 4
        in_process = processes == 1 or not os.path.isdir(_SHARED_MEMORY)
        in_process = in_process or shutil.disk_usage(_SHARED_MEMORY).free < 1.1 * dense_bytes
        options: dict[str, Any] = {"low_memory": True, "num_threads": 1} if in_process else {"num_workers": processes}
        frame = parallel_differential_expression(
            cells,
            reference=control,
            groupby_key=PERTURBATION,
            metric="wilcoxon",
            is_log1p=True,
            as_polars=True,
            **options,
        )
    assert isinstance(frame, pl.DataFrame)
    return frame


def _import_quietly() -> None:
    """Import cell-eval and pdex without the root log handler that pdex installs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    import cell_eval  # noqa: F401
    import pdex  # noqa: F401

    root.handlers[:] = handlers
    root.setLevel(level)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the bars (written to stderr) and logs of cell-eval and pdex."""
    loggers = [logging.getLogger(name) for name in ("cell_eval", "pdex")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
