"""Print the table of one evaluation: linear start alone, network alone, both, STATE, the best baseline, split halves.

Usage: python table.py METRICS.json [KEPT.json]

METRICS.json is that of a report, or what an earlier call kept; KEPT.json gets the scores and the comparisons.
"""

import json
import sys
from pathlib import Path

ARMS = ("linear start alone", "network alone", "both", "STATE")
METRICS = ("PDCorr", "DEOver", "DEPrec", "LFCSpear", "DirAgr", "MSE")
LOW_IS_BETTER = ("MSE",)


def kept(report: dict) -> dict:
    """Return what is kept of a report: the scores of every arm, and the comparisons among the predictions.

    Those with shared control cells are kept under ``shared``, where the report has them second.
    """
    shared = report.get("shared")
    return {
        "controls": report["controls"],
        "conditions": report["conditions"],
        "arms": {
            name: {"kind": arm["kind"], "metrics": rounded(arm["metrics"])}
            | ({"seeds": [rounded(seed) for seed in arm["seeds"]]} if arm["seeds"] else {})
            for name, arm in report["arms"].items()
        },
        "comparisons": [rounded(one) for one in report["comparisons"] if {one["first"], one["second"]} <= set(ARMS)],
    } | ({"shared": kept(shared)} if shared else {})


def rounded(values: dict) -> dict:
    """Return the values with six digits behind the point, which is more than the tables show."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}


def number(value: float | None) -> str:
    """Return a score as the tables show it; a dash for one that was not measured or has no value."""
    return "–" if value is None else f"{value:.3f}".replace("0.", ".", 1).replace("-", "−")


def table(report: dict) -> str:
    """Return the Markdown table of an evaluation; the best baseline is chosen for each metric by its own score.

    Scores with independent control cells stand first; those with shared ones, as published protocols have them, second.
    """
    lines = [f"| | {' | '.join(ARMS)} | best simple baseline | split halves |"]
    lines.append("| --- |" + " ---: |" * len(ARMS) + " --- | ---: |")
    lines += rows(report)
    if report.get("shared"):
        lines += rows(report["shared"], ", shared controls")
    return "\n".join(lines)


def rows(report: dict, ending: str = "") -> list[str]:
    """Return a row for each metric, whose name gets an ending."""
    scores = {name: arm["metrics"] for name, arm in report["arms"].items()}
    baselines = [name for name, arm in report["arms"].items() if arm["kind"] == "baseline"]
    lines = []
    for metric in METRICS:
        known = {name: scores[name][metric] for name in baselines if scores[name].get(metric) is not None}
        best = (min if metric in LOW_IS_BETTER else max)(known, key=lambda name: known[name]) if known else ""
        own = [number(scores.get(arm, {}).get(metric)) for arm in ARMS]
        halves = number(scores["split halves"].get(metric))
        lines.append(
            f"| {metric}{ending} | {' | '.join(own)} | {f'{number(known.get(best))} {best}'.rstrip()} | {halves} |"
        )
    return lines


def main(arguments: list[str]) -> None:
    """Print the table, and keep its numbers where a second file is named."""
    report = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    if len(arguments) > 1:
        Path(arguments[1]).write_text(json.dumps(kept(report), indent=1) + "\n", encoding="utf-8")
    print(table(report))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
