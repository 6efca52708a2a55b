"""Rows to ``results.json``, a Markdown table of paired differences, and a plot of them."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from experiments.ablations.variants import DEFAULT

HEADLINE = ("MSE", "MAE", "PDCorr", "DEOver", "DEPrec", "LFCSpear", "DirAgr")
PLOTTED = ("PDCorr", "DEOver", "LFCSpear")
BESIDE = ("control cells", "control cells + transferred delta", "split halves")
DRAWS = 2000
MARKERS = ("o", "s", "^")


def write_summary(rows: list[dict], out: Path) -> None:
    """Write results.json, table.md and plot.svg.

    Parameters
    ----------
    rows
        One for each (screen, variant, seed), as ``job.py`` wrote them.
    out
        Folder.
    """
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (out / "results.json").write_text(f'{{"rows": [\n{lines}\n]}}\n')
    (out / "table.md").write_text(markdown(rows))
    plot(rows, out / "plot.svg")


def differences(rows: list[dict], variant: str, metric: str) -> np.ndarray:
    """Return a variant's score less the default's, for every seed and condition that both have.

    Parameters
    ----------
    rows
        Of one screen.
    variant
        Which.
    metric
        Which.

    Returns
    -------
    np.ndarray
        [seeds, conditions]; NaN where one of the two has no value. Without columns where no seed has both.
    """
    scores: dict[str, dict[int, dict[tuple, float]]] = defaultdict(dict)
    for row in rows:
        values = {(one["context"], one["perturbation"]): one[metric] for one in row["conditions"]}
        scores[row["variant"]][row["seed"]] = values
    own, default = scores[variant], scores[DEFAULT]
    seeds = sorted(own.keys() & default.keys())
    conditions = sorted({condition for seed in seeds for condition in own[seed].keys() & default[seed].keys()})
    table = np.full((len(seeds), len(conditions)), np.nan)
    for i, seed in enumerate(seeds):
        for j, condition in enumerate(conditions):
            pair = own[seed].get(condition), default[seed].get(condition)
            if None not in pair:
                table[i, j] = pair[0] - pair[1]  # type: ignore[operator]
    return table


def mean_and_interval(table: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean of a [seeds, conditions] table, and its 95 % bootstrap interval.

    A draw takes seeds with replacement and, independently, conditions with replacement (the pigeonhole bootstrap of
    Owen 2007): two seeds of one condition are not two independent observations, nor two conditions of one seed. The
    interval is NaN below two values.
    """
    known = ~np.isnan(table)
    if not known.any():
        return np.nan, np.nan, np.nan
    mean = float(table[known].mean())
    if known.sum() < 2:
        return mean, np.nan, np.nan
    rng = np.random.default_rng(seed)
    rows, columns = table.shape
    seeds = rng.multinomial(rows, np.full(rows, 1 / rows), size=DRAWS)
    conditions = rng.multinomial(columns, np.full(columns, 1 / columns), size=DRAWS)
    total = np.einsum("di,ij,dj->d", seeds, np.where(known, table, 0.0), conditions)
    weight = np.einsum("di,ij,dj->d", seeds, known.astype(float), conditions)
    low, high = np.quantile(total[weight > 0] / weight[weight > 0], [0.025, 0.975])
    return mean, float(low), float(high)


def markdown(rows: list[dict]) -> str:
    """Return a table for each screen: the default's scores, and of every variant the difference to it."""
    parts = []
    for screen, own in _by_screen(rows).items():
        default = [row for row in own if row["variant"] == DEFAULT]
        seeds, conditions = len(default), len(default[0]["conditions"]) if default else 0
        lines = [("", *HEADLINE), ("---", *["---:"] * len(HEADLINE))]
        for arm in BESIDE if default else ():
            beside = default[0]["beside"].get(arm, {})
            lines.append((f"*{arm}*", *(_plain(beside.get(metric)) for metric in HEADLINE)))
        lines.append(
            (f"*{DEFAULT}*", *(_plain(_mean([row["metrics"][metric] for row in default])) for metric in HEADLINE))
        )
        for variant in _variants(own):
            cells = [_difference(*mean_and_interval(differences(own, variant, metric)), metric) for metric in HEADLINE]
            lines.append((variant, *cells))
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"**{screen}**, {seeds} seeds, {conditions} conditions\n\n{table}")
    return "\n\n".join(parts) + "\n"


def plot(rows: list[dict], path: Path) -> None:
    """Draw every variant's difference to the default with its interval; filled where the interval leaves out 0."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    screens = _by_screen(rows)
    variants = _variants(rows)
    with mpl.rc_context({"font.size": 8, "svg.hashsalt": "ablations", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 1.2 + 0.36 * len(variants)), layout="constrained")
        axes = figure.subplots(1, len(PLOTTED), sharey=True, squeeze=False)[0]
        for panel, metric in zip(axes, PLOTTED, strict=True):
            panel.axvline(0, color="black", linewidth=0.8)
            for place, (screen, own) in enumerate(screens.items()):
                offset = 0.22 * (place - (len(screens) - 1) / 2)
                for height, variant in enumerate(variants):
                    mean, low, high = mean_and_interval(differences(own, variant, metric))
                    if mean != mean:
                        continue
                    known = low == low
                    panel.errorbar(
                        mean,
                        height + offset,
                        xerr=[[mean - low], [high - mean]] if known else None,
                        fmt=MARKERS[place % len(MARKERS)],
                        color="black",
                        markerfacecolor="black" if known and low * high > 0 else "white",
                        markersize=5,
                        linewidth=0.9,
                        capsize=2,
                        label=screen,
                    )
            panel.set_title(metric, fontsize=9)
            panel.grid(axis="y", color="0.85", linewidth=0.5)
            panel.set_axisbelow(True)
        axes[0].set_yticks(range(len(variants)), variants)
        axes[0].invert_yaxis()
        handles, labels = axes[0].get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), loc="outside upper center", ncols=len(once), frameon=False)
        figure.supxlabel("difference to the default, 95 % interval (right is better)", fontsize=8)
        figure.savefig(path, metadata={"Date": None})


def _by_screen(rows: list[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        found[row["screen"]].append(row)
    return dict(found)


def _variants(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["variant"] for row in rows if row["variant"] != DEFAULT))


def _difference(mean: float, low: float, high: float, metric: str) -> str:
    """The difference and its interval, in bold where the interval leaves out 0."""
    if mean != mean:
        return "–"
    places = 4 if metric == "MSE" else 3
    text = f"{mean:+.{places}f}" + ("" if low != low else f" ({low:+.{places}f} to {high:+.{places}f})")
    text = text.replace("-", "−").replace("0.", ".")
    return f"**{text}**" if low * high > 0 else text


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _mean(values: list) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
