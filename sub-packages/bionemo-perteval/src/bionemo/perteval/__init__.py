"""Score predicted against observed cells, between baselines and a ceiling.

>>> from bionemo import perteval
>>> evaluation = perteval.evaluate("predicted.h5ad", "observed.h5ad")  # doctest: +SKIP
>>> evaluation.table  # doctest: +SKIP
>>> perteval.write(evaluation, "report")  # doctest: +SKIP

Nothing is imported before it is used, so that a command line can mount `bionemo.perteval.cli` at no cost.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bionemo.perteval.engines.vcc2026 import evaluate_submission
    from bionemo.perteval.evaluation import Evaluation
    from bionemo.perteval.metrics.registry import METRICS, Metric, register
    from bionemo.perteval.populations.baselines import BASELINES, Baseline
    from bionemo.perteval.report.files import write
    from bionemo.perteval.report.tables import render
    from bionemo.perteval.report.warnings import warnings
    from bionemo.perteval.run import evaluate
    from bionemo.screens.errors import InputError

_MODULES = {
    "BASELINES": "bionemo.perteval.populations.baselines",
    "METRICS": "bionemo.perteval.metrics.registry",
    "Baseline": "bionemo.perteval.populations.baselines",
    "Evaluation": "bionemo.perteval.evaluation",
    "InputError": "bionemo.screens.errors",
    "Metric": "bionemo.perteval.metrics.registry",
    "evaluate": "bionemo.perteval.run",
    "warnings": "bionemo.perteval.report.warnings",
    "evaluate_submission": "bionemo.perteval.engines.vcc2026",
    "register": "bionemo.perteval.metrics.registry",
    "render": "bionemo.perteval.report.tables",
    "write": "bionemo.perteval.report.files",
}

__all__ = [
    "BASELINES", "METRICS", "Baseline", "Evaluation", "InputError", "Metric", "evaluate", "evaluate_submission",
    "register", "render", "warnings", "write",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
