"""Tables over folds, from the reports of the evaluation."""

import json
import statistics
from pathlib import Path

HEADLINE = ("MSE", "MAE", "PDCorr", "DEOver", "DEPrec", "LFCSpear", "DirAgr")
COLUMNS = (*HEADLINE, "n_de_predicted")
LOW = ("MSE", "MAE")
"""Metrics of which less is better."""
SCALE, STATE, TRANSFERRED, ENDING = "scale", "state", "control cells + transferred delta", ", zero-preserving"


def write_summary(folds: dict[str, dict], failed: list[str], out: Path) -> None:
    """Write ``results.json`` and ``table.md``.

    Parameters
    ----------
    folds
        Fold -> its report (``metrics.json`` of the evaluation), commands and versions; empty where it has none.
    failed
        Folds in which something failed; they are named in both files.
    out
        Folder.
    """
    kept = {name: _kept(facts) for name, facts in folds.items() if facts}
    (out / "results.json").write_text(json.dumps({"failed": failed, "folds": kept}, indent=1) + "\n")
    (out / "table.md").write_text(markdown(kept, failed))


def markdown(folds: dict[str, dict], failed: list[str]) -> str:
    """Return a table for each screen, the mean over its folds, and one of every fold's PDCorr."""
    parts = [f"Not measured: {', '.join(failed)}."] if failed else []
    groups: dict[str, list[dict]] = {}
    for name, fold in folds.items():
        groups.setdefault("gbm" if name.startswith("gbm_") else name, []).append(fold)
    with_state = [fold for fold in groups.get("gbm", []) if STATE in fold["arms"]]
    if 0 < len(with_state) < len(groups.get("gbm", [])):
        groups["gbm, where there is STATE"] = with_state
    for name, members in groups.items():
        what = f"mean of {len(members)} folds" if len(members) > 1 else f"{members[0]['conditions']} conditions"
        parts.append(f"**{name}**, {what}, independent control cells\n\n{_arm_table(members)}")
        shared = [member["shared"] for member in members]
        parts.append(f"**{name}**, shared control cells as published protocols have them\n\n{_arm_table(shared)}")
    parts.append(_fold_table(folds))
    return "\n\n".join(parts) + "\n"


def best_baseline(arms: dict[str, dict], metric: str) -> str | None:
    """Return the baseline with the best value of a metric; None where none has one."""
    values = {name: arm[metric] for name, arm in arms.items() if arm["kind"] == "baseline" and arm[metric] is not None}
    if not values:
        return None
    return min(values, key=values.__getitem__) if metric in LOW else max(values, key=values.__getitem__)


def over_folds(folds: list[dict]) -> dict[str, dict]:
    """Arm -> kind and mean of every metric over the folds; ``sd`` over seeds of that mean, for predictions."""
    names = [name for name in folds[0]["arms"] if all(name in fold["arms"] for fold in folds)]
    found = {}
    for name in names:
        arms = [fold["arms"][name] for fold in folds]
        found[name] = {"kind": arms[0]["kind"]} | {metric: _mean([arm[metric] for arm in arms]) for metric in COLUMNS}
        seeds = [arm["seeds"] or [] for arm in arms]
        fewest = min(len(one) for one in seeds)
        if fewest > 1:
            means = {
                metric: [_mean([one[seed][metric] for one in seeds]) for seed in range(fewest)] for metric in COLUMNS
            }
            found[name]["sd"] = {
                metric: None if None in values else statistics.stdev(values)  # type: ignore[type-var]
                for metric, values in means.items()
            }
    return found


def _arm_table(folds: list[dict]) -> str:
    arms = over_folds(folds)
    lines: list[tuple[str, ...]] = [("arm", *HEADLINE, "predicted DE genes")]
    lines.append(("---", *["---:"] * len(COLUMNS)))
    best = {metric: best_baseline(arms, metric) for metric in HEADLINE}
    order = {"prediction": 0, "baseline": 1, "oracle": 3, "ceiling": 4}
    for name, arm in sorted(arms.items(), key=lambda item: order[item[1]["kind"]]):
        cells = []
        for metric in COLUMNS:
            text = _number(arm[metric], 0 if metric == "n_de_predicted" else 3)
            spread = arm.get("sd", {}).get(metric)
            if spread is not None and metric in HEADLINE:
                text += f" ± {_number(spread, 3)}"
            cells.append(f"**{text}**" if best.get(metric) == name else text)
        lines.append((name + {"oracle": " (oracle)", "ceiling": " (ceiling)"}.get(arm["kind"], ""), *cells))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fold_table(folds: dict[str, dict]) -> str:
    state = any(STATE in fold["arms"] for fold in folds.values())
    head = ["fold", "scale", "transferred delta", "zero-preserving", "scale less the better", "split halves"]
    lines = [[*head, "STATE"] if state else head]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for name, fold in folds.items():
        arms = over_folds([fold])
        own = arms[SCALE]["PDCorr"]
        theirs = [arms[arm]["PDCorr"] for arm in (TRANSFERRED, TRANSFERRED + ENDING)]
        sd = arms[SCALE].get("sd", {}).get("PDCorr")
        cells = [
            name,
            _number(own, 3) + ("" if sd is None else f" ± {_number(sd, 3)}"),
            *(_number(value, 3) for value in theirs),
            f"{own - max(theirs):+.3f}".replace("-", "−"),
            _number(arms["split halves"]["PDCorr"], 3),
        ]
        if state:
            cells.append(_number(arms.get(STATE, {}).get("PDCorr"), 3))
        lines.append(cells)
    return "PDCorr, fold by fold\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _kept(facts: dict) -> dict:
    """The part of a report that the tables are made from: independent control cells first, shared ones beside."""
    report = facts["report"]
    return {
        "conditions": report["conditions"],
        "arms": _arms(report),
        "shared": {"arms": _arms(report["shared"])},
        "commands": facts["commands"],
        "validation": facts["validation"],
        "versions": {**report["versions"], **facts["model_versions"]},
    }


def _arms(report: dict) -> dict[str, dict]:
    arms = {}
    for name, arm in report["arms"].items():
        seeds = arm["seeds"] and [{metric: _round(seed[metric]) for metric in COLUMNS} for seed in arm["seeds"]]
        arms[name] = {"kind": arm["kind"], "seeds": seeds}
        arms[name] |= {metric: _round(arm["metrics"][metric]) for metric in COLUMNS}
    return arms


def _mean(values: list) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}".replace("-", "−")
