"""Make the report: one self-contained HTML page with tables and pictures."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from bionemo.perteval.checks.flags import CHECKS
from bionemo.perteval.checks.profiles import OBSERVED
from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics.registry import (
    DE_RULE,
    FEW_DE_GENES,
    METRICS,
    MISSING_RULE,
    STRONG_EFFECT,
    Metric,
    directed,
    headline,
)
from bionemo.perteval.metrics.strata import METRIC, RESISTANT, SATURATED
from bionemo.perteval.populations.baselines import CONTROL_CELLS
from bionemo.perteval.populations.ceiling import SPLIT_HALVES
from bionemo.perteval.report import figures
from bionemo.perteval.report.text import (
    ARROWS,
    cannot_tell,
    counted,
    de_counts,
    difference,
    number,
    p_value,
    signed,
    verdict,
)
from bionemo.perteval.report.warnings import warnings
from bionemo.screens.printable import printable


def html(evaluation: Evaluation) -> str:
    """Return the page.

    Parameters
    ----------
    evaluation
        Result of `evaluate`.
    """
    environment = Environment(
        loader=PackageLoader("bionemo.perteval.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # not what is markup already
    )
    settings = evaluation.settings
    further = [m for m in directed() if not m.headline and m.name in evaluation.metrics]
    overlaps, overlapping = figures.overlaps(evaluation)
    maps, mapped = figures.maps(evaluation)
    counted_metrics = [name for name, total in evaluation.missing.sum().items() if total]
    return environment.get_template("report.html.j2").render(
        predicted_name=", ".join(evaluation.predictions) if len(evaluation.predictions) > 1 else settings["predicted"],
        observed_name=settings["observed"],
        size=counted(evaluation.conditions, len(settings["scored"])),
        conditions=evaluation.conditions,
        genes=settings["genes"],
        checks=_checks(evaluation),
        predictions=evaluation.predictions,
        heads=[(metric.name, ARROWS[metric.best or "high"]) for metric in headline()],
        scores=_scores(evaluation, headline()),
        shared=None if evaluation.shared is None else _scores(evaluation.shared, headline()),
        controls=str(evaluation.controls),
        comparisons=_comparisons(evaluation),
        grey={metric.name: said for metric in directed() if (said := cannot_tell(evaluation, metric))},
        calibration=_calibration(evaluation),
        strata=_strata(evaluation),
        cuts={"saturated": SATURATED, "resistant": RESISTANT, "weak": FEW_DE_GENES, "strong": STRONG_EFFECT},
        solver=evaluation.best_baseline(METRIC),
        normalised=_normalised(evaluation),
        corrected=[(name, signed(float(value), 3)) for name, value in evaluation.corrected_ceiling.items()],
        baseline=CONTROL_CELLS,
        target=evaluation.target,
        published=_published(settings["protocol"]),
        protocol=settings["protocol"],
        engines=_engines(evaluation),
        challenge=_challenge(evaluation),
        several_contexts=len(settings["scored"]) > 1,
        contexts=_contexts(evaluation),
        shifts=figures.shifts(evaluation),
        volcanoes=figures.volcanoes(evaluation),
        overlaps=overlaps,
        overlapping=overlapping,
        maps=maps,
        mapped=mapped,
        sizes=figures.populations(evaluation),
        populations=_populations(evaluation),
        clouds=figures.clouds(evaluation),
        cloud_name=figures.cloud_name(evaluation),
        further_heads=[(metric.name, ARROWS[metric.best or "high"]) for metric in further],
        further=_scores(evaluation, further, intervals=False),
        counted=counted_metrics,
        missing=[
            (arm, [int(evaluation.missing.loc[arm, name]) for name in counted_metrics])  # type: ignore[arg-type]
            for arm in evaluation.arms
        ],
        definitions=evaluation.definitions,
        metrics=[METRICS[name] for name in evaluation.metrics],
        de_rule=DE_RULE,
        missing_rule=MISSING_RULE,
        notices=[*evaluation.notices, *evaluation.failed_seeds],
        warnings=warnings(evaluation),
        notes=evaluation.notes,
        settings=_settings(settings),
        versions=evaluation.versions,
    )


def _scores(evaluation: Evaluation, metrics: Sequence[Metric], *, intervals: bool = True) -> list[dict[str, Any]]:
    """Return one row an arm: its name, kind, DE counts, and a cell a metric, with its interval or without."""
    winners = {metric.name: evaluation.best(metric.name) for metric in metrics}
    rows = []
    for arm, described in evaluation.arms.items():
        cells = []
        for metric in metrics:
            low, high = (float(end) for end in evaluation.intervals.loc[(arm, metric.name)])
            cells.append(
                {
                    "name": metric.name,
                    "text": number(float(evaluation.table.loc[arm, metric.name]), metric),  # type: ignore[arg-type]
                    "best": arm in winners[metric.name],
                    "interval": f"{number(low, metric)} to {number(high, metric)}" if intervals and low == low else "",
                }
            )
        rows.append({"arm": arm, "kind": described.kind, "cells": cells, "de": de_counts(evaluation, arm)})
    return rows


def _comparisons(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row a pair of arms: the differences of the headline metrics, whether the interval leaves out 0."""
    table = evaluation.comparisons
    rows = []
    for first, second in dict.fromkeys((str(a), str(b)) for a, b, _ in table.index):
        cells = []
        for metric in headline():
            of = table.loc[(first, second, metric.name)]
            value, low, high = (float(of[name]) for name in ("difference", "low", "high"))
            sure = low > 0 or high < 0
            better = (value > 0) == (metric.best == "high")
            cells.append(
                {
                    "text": difference(value, metric),
                    "interval": "" if low != low else f"{difference(low, metric)} to {difference(high, metric)}",
                    "p": p_value(of["p_value"]),
                    "verdict": "" if not sure else "▲" if better else "▽",
                }
            )
        rows.append({"first": first, "second": second, "cells": cells})
    return rows


def _calibration(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row a metric: its two controls, how far they lie apart, and whether it tells them apart."""
    return [
        {
            "metric": name,
            "tells": row["tells"],
            "cells": [
                row["negative"] or "–",
                row["positive"] or "–",
                difference(float(row["difference"]), METRICS[name]),
                signed(float(row["separation"]), 1),
                "–" if row["wins"] != row["wins"] else f"{row['wins']:.0%}",
            ],
        }
        for name, row in evaluation.calibration.to_dict("index").items()
    ]


def _strata(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row a stratum and prediction: how much better it is than the best baseline of the stratum."""
    rows = []
    for _, found in evaluation.strata.groupby(["by", "stratum", "arm"], sort=False):
        by, stratum, conditions, arm = found.iloc[0][["by", "stratum", "conditions", "arm"]]
        cells = []
        for metric in headline():
            row = found.set_index("metric").loc[metric.name]
            low, high = float(row["low"]), float(row["high"])
            cells.append(
                {
                    "text": difference(float(row["difference"]), metric),
                    "interval": "" if low != low else f"{difference(low, metric)} to {difference(high, metric)}",
                    "verdict": verdict(low, high),
                    "baseline": row["baseline"],
                }
            )
        name = {"all": "all", "difficulty": stratum, "strength": f"{stratum} effect"}[by]
        rows.append({"name": name, "by": by, "conditions": conditions, "arm": arm, "cells": cells})
    return rows


def _checks(evaluation: Evaluation) -> dict[str, Any]:
    """Return the raised flags as sentences, and every check with its value for each prediction."""
    answers = {(flag.arm, flag.check.name): flag for flag in evaluation.flags}
    return {
        "raised": [
            {"arm": flag.arm, "check": flag.check, "value": _value(flag.check, flag.value)}
            for flag in evaluation.flags
            if flag.raised
        ],
        "rows": [
            {
                "check": check,
                "bounds": _bounds(check),
                "values": [
                    {"text": _value(check, answers[arm, check.name].value), "raised": answers[arm, check.name].raised}
                    for arm in evaluation.predictions
                ],
            }
            for check in CHECKS
        ],
        "several": len(evaluation.predictions) > 1,
    }


def _value(check: Any, value: float) -> str:
    if value != value:
        return "–"
    return f"{100 * value:.0f} %".replace("-", "−") if check.percent else signed(value, 2)


def _bounds(check: Any) -> str:
    if check.low is None:
        return f"up to {_value(check, check.high)}"
    if check.high is None:
        return f"from {_value(check, check.low)}"
    return f"{_value(check, check.low)} to {_value(check, check.high)}"


def _normalised(evaluation: Evaluation) -> list[tuple[str, str, list[str]]]:
    """Return arm, kind and normalised headline scores; the two arms that are 0 and 1 by definition left out."""
    table = evaluation.normalised()
    return [
        (arm, described.kind, [signed(float(table.loc[arm, metric.name]), 2) for metric in headline()])  # type: ignore[arg-type]
        for arm, described in evaluation.arms.items()
        if arm not in {CONTROL_CELLS, SPLIT_HALVES}
    ]


def _published(protocol: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row a model with the scores that a paper printed."""
    return [
        {
            "model": row["model"],
            "source": row["source"],
            "cells": [
                {"text": f"{row['scores'][metric.name]:g}" if metric.name in row["scores"] else "–",
                 "comparable": metric.name not in row["not_comparable"]}
                for metric in headline()
            ],
        }
        for row in protocol["published"]
    ]  # fmt: skip


def _engines(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return the headline scores of both releases of cell-eval side by side; None where there is only one."""
    table = evaluation.engines
    if table is None:
        return None
    rows = []
    for arm in dict.fromkeys(table.index.get_level_values("arm")):
        scores = table.loc[arm]
        rows.append(
            {
                "arm": arm,
                "kind": evaluation.arms[arm].kind,
                "cells": [
                    " / ".join(number(float(value), metric) for value in scores.loc[metric.name])
                    if metric.name in scores.index
                    else "–"
                    for metric in headline()
                ],
            }
        )
    return {"releases": list(table.columns), "rows": rows}


def _challenge(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return the scaled members of the Virtual Cell Challenge 2026; None where not asked for."""
    scaled = evaluation.challenge_table
    if scaled is None:
        return None
    rows = [
        (arm, evaluation.arms[str(arm)].kind, [signed(float(value), 2) for value in row])
        for arm, row in scaled.iterrows()
    ]
    return {"members": list(scaled.columns), "rows": rows}


def _contexts(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row a context: the scores of each prediction and of the baseline to beat."""
    rows = []
    for context, labels in evaluation.settings["scored"].items():
        for arm in (*evaluation.predictions, evaluation.target):
            values = evaluation.per_context.loc[(arm, context)]
            rows.append(
                {
                    "context": context,
                    "count": len(labels),
                    "first": arm == evaluation.predictions[0],
                    "arm": arm,
                    "kind": evaluation.arms[arm].kind,
                    "cells": [number(float(values[metric.name]), metric) for metric in headline()],
                }
            )
    return rows


def _populations(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    profiles = evaluation.profiles
    rows = []
    for arm in (OBSERVED, *evaluation.arms):
        kind = "observed" if arm == OBSERVED else evaluation.arms[arm].kind
        zeros = f"{100 * profiles.fraction_of_zeros(arm):.1f} %"
        rows.append((arm, kind, zeros, f"{profiles.mean_variance(arm):.3f}"))
    return rows


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
