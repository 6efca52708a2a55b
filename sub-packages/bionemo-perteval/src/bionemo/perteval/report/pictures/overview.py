"""Draw the three pictures of the first screen: where the scores lie, who wins where, and how many genes are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from bionemo.perteval.report.pictures.style import BLACK, BLUE, GREY, PALE, diagonal, picture, short

_MARKS = (("^", BLUE), ("s", BLACK), ("D", GREY))
"""Shape and ink of the first, second and third prediction."""

_LOW, _HIGH = -0.25, 1.5
_WIDTH, _HEIGHT = 3.7, 3.3


@dataclass(frozen=True)
class Place:
    """A `Place` is where a metric has the predictions, as shares of the way from one point to a better one."""

    metric: str
    """Its name."""
    grey: bool
    """Whether it tells nothing on this screen."""
    predictions: Sequence[tuple[float, float, float]]
    """Low end of the interval, value and high end of each prediction; NaN where there is no way between the points."""
    baseline: float | None = None
    """The best baseline, if one is to be shown."""


def places(rows: Sequence[Place], names: Sequence[str], ends: tuple[str, str]) -> str:
    """Draw a row a metric: the best baseline, and the predictions with their intervals, between two named points."""

    def draw(figure) -> None:
        axes = figure.subplots()
        for end, label in zip((0.0, 1.0), ends, strict=True):
            axes.axvline(end, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
            axes.text(end, -0.75, label, ha="center", va="bottom", fontsize=7, color="#595959")
        step = 0.22
        for y, row in enumerate(rows):
            if np.isnan([value for _, value, _ in row.predictions]).all():
                axes.text(0.5, y, "no way between", ha="center", va="center", fontsize=7, color="#595959")
                continue
            axes.axhline(y, color=PALE, linewidth=0.6, zorder=0)
            ink = GREY if row.grey else BLACK
            if row.baseline is not None:
                axes.plot(*_inside(row.baseline, y, "o"), color=ink, fillstyle="none", markersize=6, zorder=3)
            for place, (low, value, high) in enumerate(row.predictions):
                mark, colour = _MARKS[place]
                colour = GREY if row.grey else colour
                at = y + step * (place - (len(names) - 1) / 2) if len(names) > 1 else y
                axes.plot(np.clip([low, high], _LOW, _HIGH), [at, at], color=colour, linewidth=1.4, zorder=2)
                axes.plot(*_inside(value, at, mark), color=colour, markersize=6, zorder=4)
        axes.set(xlim=(_LOW - 0.06, _HIGH + 0.06), ylim=(len(rows) - 0.5, -0.7))
        axes.set_yticks(range(len(rows)), [row.metric for row in rows], fontsize=8)
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color("#767676" if row.grey else BLACK)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_xlabel("share of the way (arrows: outside)")
        shows_baseline = any(row.baseline is not None for row in rows)
        _key(axes, names, [("best baseline", "o", BLACK, "none")] if shows_baseline else [])

    return picture(draw, _WIDTH, _HEIGHT, (0.72, 0.08, 0.75, 0.3))


def winners(
    baseline: Sequence[float], predictions: Mapping[str, Sequence[float]], strong: Sequence[bool], metric: str
) -> str:
    """Draw the score of each condition under the predictions against the best baseline; filled for strong effects."""

    def draw(figure) -> None:
        axes = figure.subplots()
        x, filled = np.asarray(baseline), np.asarray(strong, dtype=bool)
        both = np.concatenate([x, *map(np.asarray, predictions.values())])
        both = both[np.isfinite(both)] if np.isfinite(both).any() else np.zeros(1)
        diagonal(axes, float(both.min()), float(both.max()))
        for (mark, colour), values in zip(_MARKS, predictions.values(), strict=False):
            for mask, face in ((filled, colour), (~filled, "none")):
                axes.scatter(
                    x[mask], np.asarray(values)[mask], s=22, marker=mark, facecolors=face, edgecolors=colour,
                    linewidths=0.9, alpha=0.85,
                )  # fmt: skip
        axes.set_xlabel(f"{metric} of the best baseline")
        axes.set_ylabel(f"{metric} of the prediction")
        _corners(axes, "prediction ahead", "baseline ahead")
        _key(axes, list(predictions), [("weaker effect", _MARKS[0][0], BLUE, "none")])

    return picture(draw, _WIDTH, _HEIGHT, (0.72, 0.08, 0.75, 0.3))


def called(observed: Sequence[float], predictions: Mapping[str, Sequence[float]]) -> str:
    """Draw how many genes each prediction calls DE against how many are, a point a condition."""

    def draw(figure) -> None:
        axes = figure.subplots()
        most = max(1.0, float(np.nanmax([observed, *predictions.values()])))
        limits = (-0.3, most * 1.5)
        axes.plot(limits, limits, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
        for (mark, colour), values in zip(_MARKS, predictions.values(), strict=False):
            axes.scatter(observed, values, s=22, marker=mark, facecolors="none", edgecolors=colour, linewidths=0.9)
        for set_scale in (axes.set_xscale, axes.set_yscale):
            set_scale("symlog", linthresh=1)
        axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="observed DE genes", ylabel="predicted DE genes")
        ticks = [0, *(10**power for power in range(int(np.log10(most)) + 1))]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
            axis.set_minor_locator(NullLocator())
        _corners(axes, "too many called", "too few called")
        _key(axes, list(predictions), [])

    return picture(draw, _WIDTH, _HEIGHT, (0.72, 0.08, 0.75, 0.3))


def _corners(axes: Axes, above: str, below: str) -> None:
    """Say what a point above the diagonal means, and what one below it does."""
    style: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 7.5, "color": "#595959"}
    axes.text(0.03, 0.97, above, va="top", **style)
    axes.text(0.97, 0.03, below, ha="right", **style)


def _inside(value: float, y: float, mark: str) -> tuple[list[float], list[float], str]:
    """Return where to draw a value, and with which mark: an arrow at the edge for one outside."""
    arrow = "<" if value < _LOW else ">" if value > _HIGH else mark
    return [float(np.clip(value, _LOW, _HIGH))], [y], arrow


def _key(axes: Axes, names: Sequence[str], further: Sequence[tuple[str, str, str, str]]) -> None:
    marks = [(name, mark, colour, colour) for name, (mark, colour) in zip(names, _MARKS, strict=False)]
    handles = [
        Line2D([], [], ls="none", marker=mark, color=colour, mfc=face, markersize=5.5, label=short(name, 20))
        for name, mark, colour, face in (*marks, *further)
    ]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(handles), handletextpad=0.1,
        columnspacing=1.0, borderaxespad=0.1,
    )  # fmt: skip
