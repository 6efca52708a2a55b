"""Two sides of a comparison to scores: cell-eval for its metrics, `shifts` for the rest.

cell-eval gets the tests and the mean cells that were made here, not the cells, so its cost does not grow with them. It
logs, prints bars and skips metrics that fail; here it is silent and an error is an error. It is imported when first
called, because it brings scanpy with it.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl

from bionemo.perteval.metrics import shifts
from bionemo.perteval.metrics.registry import METRICS, NAMES
from bionemo.perteval.significance import mann_whitney as differential
from bionemo.perteval.significance.mann_whitney import Tested

_PERTURBATION = "perturbation"
_PACKAGES = ("bionemo-perteval", "cell-eval", "pdex", "anndata", "numpy", "scipy", "polars", "pandas")

_MOST_AT_ONCE = 64
"""Perturbations in one call of cell-eval, some of whose metrics take time with the square of their number."""


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the numbers."""
    return {name: version(name) for name in _PACKAGES}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison in one context: P perturbations tested against the observed control cells.

    Attributes
    ----------
    perturbations
        Labels, sorted [P].
    control
        Label of the control cells.
    genes
        Names [G].
    control_mean
        Mean of all control cells, log1p [G].
    tests
        One a perturbation [P].
    split_delta
        Shifts from the mean of this side's own half of the control cells, log1p [P, G].
    """

    perturbations: list[str]
    control: str
    genes: np.ndarray
    control_mean: np.ndarray
    tests: list[Tested]
    split_delta: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Mean cell of each perturbation, log1p [P, G]."""
        return np.stack([tested.moments.mean for tested in self.tests])

    @property
    def z(self) -> np.ndarray:
        """Standardised test statistics [P, G]."""
        return np.stack([tested.z for tested in self.tests])


def score(predicted: Side, observed: Side, reference: np.ndarray) -> pd.DataFrame:
    """Score one context.

    Parameters
    ----------
    predicted, observed
        The same labels and the same genes, in the same order.
    reference
        Mean perturbed cell of the context, log1p [G].

    Returns
    -------
    pd.DataFrame
        Index: perturbation. Columns: the names of `METRICS`; NaN where there is no value.
    """
    scores = _cell_eval(predicted, observed)
    mine, theirs = predicted.means, observed.means
    delta, true_delta = mine - predicted.control_mean, theirs - observed.control_mean
    scores.loc[shifts.constant(delta), "PDCorr"] = np.nan
    scores["PDCorr_split"] = shifts.correlations(predicted.split_delta, observed.split_delta)
    scores["PDCorr_ref"] = shifts.correlations(mine - reference, theirs - reference)
    scores["wMSE"] = shifts.weighted_errors(mine, theirs, observed.z)
    place = {gene: column for column, gene in enumerate(observed.genes)}
    own_gene = np.array([place.get(name, -1) for name in observed.perturbations])
    distances: tuple[tuple[str, shifts.Distance], ...] = (("PDS_l1", "l1"), ("PDS_l2", "l2"), ("PDS_cos", "cosine"))
    for name, distance in distances:
        scores[name] = shifts.discrimination(delta, true_delta, own_gene, distance)
    return pd.DataFrame(scores[NAMES])


def _cell_eval(predicted: Side, observed: Side) -> pd.DataFrame:
    """Return the metrics that cell-eval computes. Index: perturbation, in the order of the sides."""
    tests = [differential.frame(side.perturbations, side.genes, side.tests) for side in (predicted, observed)]
    genes = observed.genes.size
    parts = []
    for start in range(0, len(observed.perturbations), _MOST_AT_ONCE):
        some = slice(start, start + _MOST_AT_ONCE)
        rows = slice(start * genes, (start + _MOST_AT_ONCE) * genes)
        cells = [_pseudobulk(side, some) for side in (predicted, observed)]
        parts.append(_call_cell_eval(cells, [frame[rows] for frame in tests], observed.control))
    wanted = {metric.source: metric.name for metric in METRICS if metric.by_cell_eval}
    # A metric that no perturbation has a value for gives no column.
    joined = pd.concat(parts).reindex(index=observed.perturbations, columns=list(wanted)).astype(float)
    return joined.rename(columns=wanted)


def _pseudobulk(side: Side, some: slice) -> ad.AnnData:
    """Return mean cells as cell-eval reads them: of a single row the mean is the row."""
    labels = [side.control, *side.perturbations[some]]
    obs = pd.DataFrame({_PERTURBATION: labels}, index=pd.Index([str(i) for i in range(len(labels))]))
    matrix = np.concatenate([side.control_mean[None], side.means[some]])
    return ad.AnnData(X=matrix, obs=obs, var=pd.DataFrame(index=pd.Index(side.genes.astype(str))))


def _call_cell_eval(cells: list[ad.AnnData], tests: list[pl.DataFrame], control: str) -> pd.DataFrame:
    """Call cell-eval with mean cells and tests of the predicted and of the observed side."""
    wanted = {metric.source for metric in METRICS if metric.by_cell_eval and metric.source}
    wanted = {name.removesuffix("_real").removesuffix("_pred") for name in wanted}
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        _import_quietly()
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


def _import_quietly() -> None:
    """Import cell-eval without the root log handler that pdex, which it imports, installs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    import cell_eval  # noqa: F401

    root.handlers[:] = handlers
    root.setLevel(level)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the bars (written to stderr) and logs of cell-eval."""
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
