"""Evaluation of perturbation models: predicted and observed cells to metrics, between baselines and a ceiling.

>>> from bionemo.perteval import evaluate
>>> evaluation = evaluate("predicted.h5ad", "observed.h5ad", out="report")  # doctest: +SKIP
>>> evaluation.table  # doctest: +SKIP
"""

from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics.registry import HEADLINE, METRICS, Metric
from bionemo.perteval.populations.baselines import BASELINES, Baseline
from bionemo.perteval.report.tables import render
from bionemo.perteval.run import evaluate
from bionemo.screens.errors import InputError

__all__ = ["BASELINES", "HEADLINE", "METRICS", "Baseline", "Evaluation", "InputError", "Metric", "evaluate", "render"]
