"""Put every registered metric to the two sides of a context."""

from collections.abc import Collection, Sequence
from importlib.metadata import version

import pandas as pd

from bionemo.perteval.metrics.cell_eval import cell_eval
from bionemo.perteval.metrics.registry import METRICS
from bionemo.perteval.metrics.sides import Side

_PACKAGES = ("bionemo-perteval", "cell-eval", "pdex", "anndata", "numpy", "scipy", "polars", "pandas")


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the numbers."""
    return {name: version(name) for name in _PACKAGES}


def score(predicted: Side, observed: Side) -> pd.DataFrame:
    """Score one context; cell-eval is called once for all metrics that it computes.

    Both sides have the same labels and the same genes, in the same order.

    Returns
    -------
    pd.DataFrame
        Index: perturbation. Columns: the names of `METRICS`; NaN where there is no value.
    """
    theirs = cell_eval(predicted, observed, [of.source for of in METRICS.values() if of.source and not of.formula])
    scores = {
        name: metric.formula(predicted, observed) if metric.formula else theirs[metric.source].to_numpy()
        for name, metric in METRICS.items()
    }
    return pd.DataFrame(scores, index=pd.Index(observed.perturbations, name="perturbation"))


def over_repeats(scores: pd.DataFrame, labels: Sequence[str], predictions: Collection[str]) -> pd.DataFrame:
    """Return means over training seeds and over splits, of rows that have the same `labels`: arm and condition.

    A condition of a prediction has a value where no seed of it failed: a mean over the seeds that did not fail would
    hide those that did. Baselines and the ceiling have a value where one of their repeats has one.
    """
    names = [name for name in METRICS if name in scores]
    groups = scores.groupby(list(labels), sort=False)
    means = groups[names].mean()
    partly = failed(scores)[names].groupby([scores[label] for label in labels], sort=False).any()
    partly &= means.index.get_level_values("arm").isin(predictions)[:, None]
    return pd.DataFrame(means.mask(partly).reset_index())


def failed(scores: pd.DataFrame) -> pd.DataFrame:
    """Say which values are missing although the observed cells would have allowed them; columns: the metrics."""
    names = [name for name in METRICS if name in scores]
    missing = scores[names].isna()
    without = scores["n_de_observed"] == 0
    for name in names:
        if METRICS[name].of_de_genes:
            missing[name] &= ~without
    return pd.DataFrame(missing)
