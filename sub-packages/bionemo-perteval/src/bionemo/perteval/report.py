"""The report: one self-contained HTML page with tables and pictures."""

from typing import TYPE_CHECKING, Any

from bionemo.perteval import pictures
from bionemo.perteval.baselines import CONTROL_CELLS, TRANSFERRED_DELTA
from bionemo.perteval.ceiling import SPLIT_HALVES
from bionemo.perteval.metrics import DE_RULE, HEADLINE, METRICS, MISSING_RULE, Metric
from bionemo.perteval.tables import ARROWS, counted, de_counts, number, signed

if TYPE_CHECKING:
    from bionemo.perteval.evaluation import Evaluation


def html(evaluation: "Evaluation") -> str:
    """Return the page.

    Parameters
    ----------
    evaluation
        Result of `evaluate`.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("bionemo.perteval", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    profiles = evaluation.profiles
    return environment.get_template("report.html.j2").render(
        headline=_headline(evaluation),
        heads=[(metric.name, ARROWS[metric.best or "high"]) for metric in HEADLINE],
        normalised=_normalised(evaluation),
        baseline=CONTROL_CELLS,
        target=TRANSFERRED_DELTA,
        contexts=_contexts(evaluation),
        populations=_populations(evaluation),
        definitions=evaluation.definitions,
        metrics=METRICS,
        de_rule=DE_RULE,
        missing_rule=MISSING_RULE,
        shifts=[(shift, pictures.shift(shift)) for shift in profiles.shifts],
        zeros=pictures.zeros(profiles, evaluation.predictions[0]),
        variances=pictures.variances(profiles, evaluation.predictions[0]),
        clouds=pictures.clouds(profiles.clouds),
        cloud=profiles.clouds,
        notes=evaluation.notes,
        settings=_settings(evaluation.settings),
        scored=evaluation.settings["scored"],
        size=counted(
            sum(len(labels) for labels in evaluation.settings["scored"].values()), len(evaluation.settings["scored"])
        ),
        conditions=sum(len(labels) for labels in evaluation.settings["scored"].values()),
        genes=evaluation.settings["genes"],
        counted=[name for name, total in evaluation.missing.sum().items() if total],
        versions=evaluation.versions,
        observed_name=evaluation.settings["observed"],
        predicted_name=evaluation.settings["predicted"],
    )


def _row(values: Any, metrics: tuple[Metric, ...], best: dict[str, bool] | None = None) -> list[dict[str, Any]]:
    marked = best or {}
    return [
        {
            "name": metric.name,
            "text": number(float(values[metric.name]), metric),
            "best": marked.get(metric.name, False),
        }
        for metric in metrics
    ]


def _headline(evaluation: "Evaluation") -> list[dict[str, Any]]:
    winners = {metric.name: evaluation.best(metric.name) for metric in METRICS}
    rows = []
    for arm in evaluation.table.index:
        rows.append(
            {
                "arm": arm,
                "kind": evaluation.arms[arm].kind,
                "cells": _row(
                    evaluation.table.loc[arm], HEADLINE, {name: arm in arms for name, arms in winners.items()}
                ),
                "de": de_counts(evaluation, arm),
                "missing": {
                    metric.name: int(evaluation.missing.loc[arm, metric.name])  # type: ignore[arg-type]
                    for metric in METRICS
                },
                "other": _row(
                    evaluation.table.loc[arm],
                    tuple(metric for metric in METRICS if not metric.headline and metric.best),
                    {name: arm in arms for name, arms in winners.items()},
                ),
            }
        )
    return rows


def _normalised(evaluation: "Evaluation") -> list[tuple[str, str, list[str]]]:
    """Return arm, kind and normalised headline scores; the two arms that are 0 and 1 by definition left out."""
    table = evaluation.normalised()
    return [
        (arm, evaluation.arms[arm].kind, [signed(float(table.loc[arm, metric.name]), 2) for metric in HEADLINE])
        for arm in table.index
        if arm not in {CONTROL_CELLS, SPLIT_HALVES}
    ]


def _contexts(evaluation: "Evaluation") -> list[dict[str, Any]]:
    scored = evaluation.settings["scored"]
    groups = []
    for context, labels in scored.items():
        rows = []
        for arm in evaluation.table.index:
            values = evaluation.per_context.loc[(arm, context)]
            rows.append(
                {
                    "arm": arm,
                    "kind": evaluation.arms[arm].kind,
                    "cells": _row(values, HEADLINE),
                    "de": f"{values['n_de_predicted']:.1f} / {values['n_de_observed']:.1f}",
                }
            )
        groups.append({"context": context, "count": len(labels), "rows": rows})
    return groups


def _populations(evaluation: "Evaluation") -> list[tuple[str, str, str]]:
    profiles = evaluation.profiles
    return [
        (arm, f"{100 * profiles.fraction_of_zeros(arm):.1f} %", f"{profiles.mean_variance(arm):.3f}")
        for arm in ("observed", *evaluation.table.index)
    ]


def _settings(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the settings that fit a line; the lists of conditions stand in metrics.json."""
    lines = []
    for name, value in settings.items():
        if name in {"scored", "training", "held_out"}:
            continue
        if name == "prediction":
            lines += [
                (f"prediction: {key}", str(item)) for key, item in value.items() if not isinstance(item, dict | list)
            ]
        else:
            lines.append((name, "–" if value is None else str(value)))
    for name in ("training", "held_out"):
        lines.append((f"{name} conditions", str(len(settings[name]))))
    return lines
