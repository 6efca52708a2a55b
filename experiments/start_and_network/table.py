"""Print the table of one evaluation: linear start alone, network alone, both, STATE, the best baseline, split halves.

Usage: python table.py REPORT/metrics.json
"""

import json
import sys
from pathlib import Path

ARMS = ("linear start alone", "network alone", "both", "STATE")
METRICS = ("PDCorr", "PDCorr_split", "DEOver", "DEPrec", "LFCSpear", "DirAgr", "MSE")
LOW_IS_BETTER = ("MSE",)


def number(value: float | None) -> str:
    """Return a score as the tables show it; a dash for one that was not measured or has no value."""
    return "–" if value is None else f"{value:.3f}".replace("0.", ".", 1).replace("-", "−")


def table(report: dict) -> str:
    """Return the Markdown table of an evaluation; the best baseline is chosen for each metric by its own score."""
    scores = {name: arm["metrics"] for name, arm in report["arms"].items()}
    baselines = [name for name, arm in report["arms"].items() if arm["kind"] == "baseline"]
    lines = [
        f"| | {' | '.join(ARMS)} | best simple baseline | split halves |",
        "| --- |" + " ---: |" * 4 + " --- | ---: |",
    ]
    for metric in METRICS:
        known = {name: scores[name][metric] for name in baselines if scores[name].get(metric) is not None}
        best = (min if metric in LOW_IS_BETTER else max)(known, key=lambda name: known[name])
        own = [number(scores.get(arm, {}).get(metric)) for arm in ARMS]
        halves = number(scores["split halves"].get(metric))
        lines.append(f"| {metric} | {' | '.join(own)} | {number(known[best])} {best} | {halves} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))  # noqa: T201
