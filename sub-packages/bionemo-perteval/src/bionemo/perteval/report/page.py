"""Make the report: one self-contained HTML page with a verdict, pictures and tables."""

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader

from bionemo.perteval.checks.flags import CHECKS
from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics.registry import (
    DE_RULE,
    FEW_DE_GENES,
    METRICS,
    MISSING_RULE,
    STRONG_EFFECT,
    directed,
    headline,
)
from bionemo.perteval.metrics.strata import METRIC, RESISTANT, SATURATED
from bionemo.perteval.populations.baselines import CONTROL_CELLS
from bionemo.perteval.report import figures, sheets
from bionemo.perteval.report.text import cannot_tell, check_value, counted, signed
from bionemo.perteval.report.verdict import verdict
from bionemo.perteval.report.warnings import warnings
from bionemo.screens.printable import printable


def html(evaluation: Evaluation) -> str:
    """Return the page."""
    settings = evaluation.settings
    further = [m for m in directed() if not m.headline and m.name in evaluation.metrics]
    predicted = ", ".join(evaluation.predictions) if len(evaluation.predictions) > 1 else settings["predicted"]
    return render(
        "report.html.j2",
        title=f"Evaluation of {predicted}",
        observed_name=settings["observed"],
        size=counted(evaluation.conditions, len(settings["scored"])),
        evaluation=evaluation,
        genes=settings["genes"],
        verdicts=[verdict(evaluation, arm) for arm in evaluation.predictions],
        first=figures.first_screen(evaluation),
        raised=[(flag, check_value(flag.check, flag.value)) for flag in evaluation.flags if flag.raised],
        checks=CHECKS,
        grey={metric.name: said for metric in directed() if (said := cannot_tell(evaluation, metric))},
        cuts={"saturated": SATURATED, "resistant": RESISTANT, "weak": FEW_DE_GENES, "strong": STRONG_EFFECT},
        solver=evaluation.best_baseline(METRIC),
        sheets={
            "scores": sheets.scores(evaluation, "Scores of all arms", headline()),
            "shared": evaluation.shared
            and sheets.scores(evaluation.shared, "Scores of all arms with shared control cells", headline()),
            "published": sheets.published(settings["protocol"]),
            "calibration": sheets.calibration(evaluation),
            "strata": sheets.strata(evaluation),
            "comparisons": sheets.comparisons(evaluation),
            "normalised": sheets.normalised(evaluation),
            "engines": sheets.engines(evaluation),
            "challenge": sheets.challenge(evaluation),
            "contexts": sheets.contexts(evaluation),
            "populations": sheets.populations(evaluation),
            "checks": sheets.checks(evaluation),
            "further": sheets.scores(evaluation, "Further metrics", further, intervals=False),
            "missing": sheets.missing(evaluation),
        },
        controls=str(evaluation.controls),
        corrected=[(name, signed(float(value), 3)) for name, value in evaluation.corrected_ceiling.items()],
        baseline=CONTROL_CELLS,
        protocol=settings["protocol"],
        shifts=figures.shifts(evaluation),
        volcanoes=figures.volcanoes(evaluation),
        overlaps=figures.overlaps(evaluation),
        most_overlaps=figures.MOST_OVERLAPS,
        maps=figures.maps(evaluation),
        sizes=figures.populations(evaluation),
        clouds=figures.clouds(evaluation),
        cloud_name=figures.cloud_name(evaluation),
        metrics=[METRICS[name] for name in evaluation.metrics],
        de_rule=DE_RULE,
        missing_rule=MISSING_RULE,
        notices=[*evaluation.notices, *evaluation.failed_seeds],
        warnings=warnings(evaluation),
        settings=_settings(settings),
    )


def render(template: str, **values: Any) -> str:
    """Return a page of this folder, which lets no script run but the one that sorts its tables."""
    environment = Environment(
        loader=PackageLoader("bionemo.perteval.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # not what is markup already
    )
    script = (resources.files("bionemo.perteval.report") / "sort.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(script=script, script_hash=digest, **values)


def _settings(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the settings that fit a line; the lists of conditions stand in metrics.json."""
    lines = []
    for name, value in settings.items():
        if name in {"scored", "training", "held_out", "left_out", "protocol"}:
            continue
        if isinstance(value, dict):
            lines += [(f"{name}: {key}", _line(item)) for key, item in value.items() if _fits(item)]
        elif _fits(value):
            lines.append((name, _line(value)))
    for name in ("training", "held_out", "left_out"):
        lines.append((f"{name} conditions", str(len(settings[name]))))
    return lines


def _fits(value: Any) -> bool:
    return not isinstance(value, dict | list) or len(str(value)) <= 200


def _line(value: Any) -> str:
    return "–" if value in (None, "") else str(value)
