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

    Parameters
    ----------
    predicted, observed
        The same labels and the same genes, in the same order.

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
    """Return means over training seeds and over splits.

    A condition of a prediction has a value where all of its seeds have one: a mean over the seeds that did not fail
    would hide those that did. The ceiling has a value where one of its splits has one.

    Parameters
    ----------
    scores
        One row per arm, condition and repeat.
    labels
        Columns that name the arm and the condition.
    predictions
        Arms that are predictions.
    """
    names = [name for name in METRICS if name in scores]
    groups = scores.groupby(list(labels), sort=False)
    means = groups[names].mean()
    partly = groups[names].count().lt(groups.size(), axis=0)
    partly &= means.index.get_level_values("arm").isin(predictions)[:, None]
    return pd.DataFrame(means.mask(partly).reset_index())
