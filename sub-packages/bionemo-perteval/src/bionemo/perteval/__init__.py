"""Evaluation of perturbation models: predicted and observed cells to metrics, between baselines and a ceiling.

>>> from bionemo.perteval import evaluate
>>> evaluation = evaluate("predicted.h5ad", "observed.h5ad", out="report")  # doctest: +SKIP
>>> evaluation.table  # doctest: +SKIP
"""

from bionemo.perteval.baselines import BASELINES, Baseline
from bionemo.perteval.errors import InputError
from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics import HEADLINE, METRICS, Metric
from bionemo.perteval.run import evaluate
from bionemo.perteval.tables import render

__all__ = ["BASELINES", "HEADLINE", "METRICS", "Baseline", "Evaluation", "InputError", "Metric", "evaluate", "render"]
