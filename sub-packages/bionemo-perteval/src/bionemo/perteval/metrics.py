"""The metrics: their names in papers, in cell-eval, which way is better, and what each one says."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of cell-eval.

    Attributes
    ----------
    name
        Name in the tables of papers; the column in every frame of this package.
    source
        Name in cell-eval's results.
    best
        Whether ``"high"`` or ``"low"`` is better; None for a plain count.
    headline
        Whether it is one of the seven that papers report.
    definition
        One or two sentences for the report.
    """

    name: str
    source: str
    best: Literal["high", "low"] | None
    headline: bool
    definition: str


METRICS: tuple[Metric, ...] = (
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
        source="de_spearman_lfc_sig",
        best="high",
        headline=True,
        definition="Spearman correlation of predicted and observed fold changes over the observed DE genes.",
    ),
    Metric(
        name="DirAgr",
        source="de_direction_match",
        best="high",
        headline=True,
        definition="Share of the observed DE genes whose predicted log fold change has the right sign.",
    ),
    Metric(
        name="PDS_l1",
        source="discrimination_score_l1",
        best="high",
        headline=False,
        definition="Discrimination score: where the true perturbation ranks when all observed shifts of the context "
        "are sorted by L1 distance to the predicted one; 1 is first, about 0.5 is chance.",
    ),
    Metric(
        name="DERecall",
        source="de_sig_genes_recall",
        best="high",
        headline=False,
        definition="Share of the observed DE genes that is DE in the prediction.",
    ),
    Metric(
        name="n_de_observed",
        source="de_nsig_counts_real",
        best=None,
        headline=False,
        definition="Number of DE genes among the observed cells.",
    ),
    Metric(
        name="n_de_predicted",
        source="de_nsig_counts_pred",
        best=None,
        headline=False,
        definition="Number of DE genes among the predicted cells.",
    ),
)
"""Every metric that is computed, in the order of the tables."""

HEADLINE: tuple[Metric, ...] = tuple(metric for metric in METRICS if metric.headline)
"""The seven metrics of the papers."""

DE_RULE = (
    "A gene is differentially expressed (DE) when a Mann-Whitney test of the perturbed cells against the control cells "
    "of the same context has a false discovery rate below 0.05, as pdex 0.1 computes it: Benjamini-Hochberg over all "
    "genes and all scored perturbations of the context together. Fold changes are of expm1(mean log1p expression)."
)
"""How DE genes are called, for the report."""

MISSING_RULE = (
    "A perturbation without a value for a metric is left out of that metric's mean and counted: LFCSpear, DirAgr and "
    "DERecall have none where no gene is really DE, and a correlation has none over a constant or a single gene. "
    "DEOver and DEPrec count a perturbation without DE genes as 0, as cell-eval does. Means are over perturbations "
    "inside a context, then over contexts."
)
"""How missing values are treated, for the report."""
