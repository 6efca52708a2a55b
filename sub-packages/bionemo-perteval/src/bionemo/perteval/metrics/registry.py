"""List the metrics: one entry each, with its names, its direction, one sentence and its formula."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bionemo.perteval.metrics import formulas
from bionemo.perteval.metrics.sides import Side
from bionemo.screens.errors import InputError

Formula = Callable[[Side, Side], np.ndarray]
"""(predicted, observed) -> one value a perturbation [P]; NaN where the metric has none."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A `Metric` compares the two sides of a context, perturbation by perturbation."""

    name: str
    """Name in the tables of papers; the column in every frame of this package."""
    source: str | None = None
    """Name in cell-eval's results; None where cell-eval has no such metric."""
    best: Literal["high", "low"] | None = None
    """Whether ``"high"`` or ``"low"`` is better; None for a plain count."""
    definition: str
    """One or two sentences for the report."""
    formula: Formula | None = None
    """Computes it from the predicted and the observed side; None where cell-eval computes it."""
    headline: bool = False
    """Whether it is one of the seven that papers report."""
    corrected: bool = False
    """Whether the ceiling is also given with the Spearman-Brown correction: the metric correlates two measurements of
    one shift."""
    of_de_genes: bool = False
    """Whether it has no value where no gene is really DE."""

    @property
    def sign(self) -> int:
        """1 where high values are better, -1 where low ones are."""
        return -1 if self.best == "low" else 1


METRICS: dict[str, Metric] = {}
"""Name -> metric, in the order of the tables."""

STRONG_EFFECT = 10
"""A condition with at least so many observed DE genes has a strong effect."""

FEW_DE_GENES = 3
"""A condition with fewer observed DE genes has a weak effect: the metrics of DE genes say next to nothing there."""


def register(metric: Metric) -> Metric:
    """Add a metric to every table, file and page from now on.

    Raises
    ------
    InputError
        Where another metric has the name, or nothing computes it.
    """
    if metric.formula is None and metric.source is None:
        raise InputError(f"The metric {metric.name!r} has neither a formula nor a source; give it one.")
    if metric.name in METRICS:
        raise InputError(f"There is a metric {metric.name!r} already; give the new one another name.")
    METRICS[metric.name] = metric
    return metric


def headline() -> list[Metric]:
    """Return the seven metrics of the papers."""
    return [metric for metric in METRICS.values() if metric.headline]


def directed() -> list[Metric]:
    """Return the metrics that have a better direction."""
    return [metric for metric in METRICS.values() if metric.best]


def _discrimination(name: str, distance: formulas.Distance, words: str) -> Metric:
    return Metric(
        name=name,
        source=f"discrimination_score_{distance}",
        best="high",
        formula=lambda predicted, observed: formulas.discrimination(
            predicted.delta, observed.delta, observed.own_genes, distance
        ),
        definition="Discrimination score: where the true perturbation ranks when all observed shifts of the context "
        f"are sorted by {words} distance to the predicted one; 1 is first, about 0.5 is chance. Ties count their mean "
        "rank; the perturbed gene itself is left out.",
    )


for _metric in (
    Metric(
        name="MSE",
        source="mse",
        best="low",
        headline=True,
        definition="Mean over genes of the squared difference between the predicted and the observed mean expression. "
        "It depends on the normalisation, so it does not compare across pipelines.",
    ),
    Metric(
        name="MAE",
        source="mae",
        best="low",
        headline=True,
        definition="Mean over genes of the absolute difference between the predicted and the observed mean expression.",
    ),
    Metric(
        name="PDCorr",
        source="pearson_delta",
        best="high",
        headline=True,
        corrected=True,
        definition="Pearson correlation over genes of the predicted and the observed shift from control "
        "(mean of the perturbed cells minus mean of the control cells).",
    ),
    Metric(
        name="DEOver",
        source="overlap_at_N",
        best="high",
        headline=True,
        definition="Of the N observed DE genes, the share that is among the N predicted DE genes with the largest "
        "absolute log fold change. Read it beside the number of predicted DE genes: calling every gene DE raises it.",
    ),
    Metric(
        name="DEPrec",
        source="precision_at_N",
        best="high",
        headline=True,
        definition="The same overlap with N the number of predicted DE genes: the share of them that is really DE.",
    ),
    Metric(
        name="LFCSpear",
        of_de_genes=True,
        source="de_spearman_lfc_sig",
        best="high",
        headline=True,
        definition="Spearman correlation of predicted and observed fold changes over the observed DE genes.",
    ),
    Metric(
        name="DirAgr",
        of_de_genes=True,
        source="de_direction_match",
        best="high",
        headline=True,
        definition="Share of the observed DE genes whose predicted log fold change has the right sign.",
    ),
    Metric(
        name="PDCorr_ref",
        best="high",
        corrected=True,
        formula=lambda predicted, observed: formulas.correlations(
            predicted.means - predicted.reference, observed.means - observed.reference
        ),
        definition="Pearson correlation over genes of the predicted and the observed shift from the mean perturbed "
        "cell of the context (mean over its training perturbations; where it has none, over the scored ones), so that "
        "what all perturbations share earns nothing.",
    ),
    Metric(
        name="wMSE",
        best="low",
        formula=lambda predicted, observed: formulas.weighted_errors(predicted.means, observed.means, observed.z),
        definition="MSE with genes weighted by how differentially expressed they are: the absolute Mann-Whitney z of "
        "the observed cells, scaled to 0 to 1 over genes, squared, divided by its sum (after Mejia et al. 2025, arXiv "
        "2506.22641, with this test's statistic for theirs).",
    ),
    _discrimination("PDS_l1", "l1", "L1"),
    _discrimination("PDS_l2", "l2", "Euclidean"),
    _discrimination("PDS_cos", "cosine", "cosine"),
    Metric(
        name="DERecall",
        of_de_genes=True,
        source="de_sig_genes_recall",
        best="high",
        definition="Share of the observed DE genes that is DE in the prediction.",
    ),
    Metric(
        name="PR_AUC",
        of_de_genes=True,
        source="pr_auc",
        best="high",
        definition="Average precision of the predicted false discovery rates as a ranking that finds the observed DE "
        "genes; chance is their share among all genes.",
    ),
    Metric(
        name="ROC_AUC",
        of_de_genes=True,
        source="roc_auc",
        best="high",
        definition="Area under the ROC curve of the same ranking; chance is 0.5.",
    ),
    Metric(
        name="n_de_observed",
        source="de_nsig_counts_real",
        definition="Number of DE genes among the observed cells.",
    ),
    Metric(
        name="n_de_predicted",
        source="de_nsig_counts_pred",
        definition="Number of DE genes among the predicted cells.",
    ),
):
    register(_metric)

DE_RULE = (
    "A gene is differentially expressed (DE) when a Mann-Whitney test of the perturbed cells against the control cells "
    "of the same context has a false discovery rate below 0.05, as pdex 0.1 computes it: Benjamini-Hochberg over all "
    "genes and all scored perturbations of the context together. Fold changes are of expm1(mean log1p expression)."
)
"""How DE genes are called, for the report."""

MISSING_RULE = (
    "A perturbation without a value for a metric is left out of that metric's mean and counted: LFCSpear, DirAgr, "
    "DERecall, PR_AUC and ROC_AUC have none where no gene is really DE, and a correlation has none over a shift that "
    "is zero or constant. A prediction of several training seeds has a value where each of its seeds has one, the "
    "split halves have one where one of the splits has one. DEOver and DEPrec count a perturbation without DE genes as "
    "0, as cell-eval does. Means are over perturbations inside a context, then over contexts."
)
"""How missing values are treated, for the report."""
