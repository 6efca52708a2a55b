"""The pictures of the report, each a ``data:`` address of an SVG: black, grey and blue, told apart by shape too."""

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bionemo.perteval.profiles import Clouds, Profiles, Shift

_BLACK, _BLUE, _GREY = "#1a1a1a", "#1f5fa8", "#a3a3a3"
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "svg.hashsalt": "perteval",
}


def shift(value: "Shift") -> str:
    """Draw the predicted against the observed delta of every gene of one condition."""

    def draw(axes: "Axes") -> None:
        low = min(value.predicted.min(), value.observed.min(), 0.0)
        high = max(value.predicted.max(), value.observed.max(), 0.0)
        _diagonal(axes, low, high)
        axes.scatter(
            value.observed, value.predicted, s=5, color=_BLUE, alpha=0.6, linewidths=0, rasterized=True, zorder=3
        )
        correlation = "–" if np.isnan(value.correlation) else f"{value.correlation:.2f}"
        axes.set_title(f"{_short(value.perturbation)}, {_short(value.context)}\nr = {correlation}")
        axes.set_xlabel("observed shift")
        axes.set_ylabel("predicted shift")

    return _picture(draw, 2.1, 2.3)


def zeros(profiles: "Profiles", arm: str) -> str:
    """Draw the fraction of zeros of every gene in an arm against the observed one."""

    def draw(axes: "Axes") -> None:
        _diagonal(axes, 0.0, 1.0)
        axes.scatter(
            profiles.zeros["observed"], profiles.zeros[arm], s=7, color=_BLUE, alpha=0.6, linewidths=0, rasterized=True
        )
        axes.set_title("Fraction of zeros, one dot a gene")
        axes.set_xlabel("observed")
        axes.set_ylabel("predicted")

    return _picture(draw, 3.2, 3.2)


def variances(profiles: "Profiles", arm: str) -> str:
    """Draw the variance of every gene in an arm against the observed one."""

    def draw(axes: "Axes") -> None:
        observed, predicted = profiles.variances["observed"], profiles.variances[arm]
        _diagonal(axes, 0.0, max(float(observed.max()), float(predicted.max()), 1e-6))
        axes.scatter(observed, predicted, s=7, color=_BLUE, alpha=0.6, linewidths=0, rasterized=True)
        axes.set_title("Variance inside a population, one dot a gene")
        axes.set_xlabel("observed")
        axes.set_ylabel("predicted")

    return _picture(draw, 3.2, 3.2)


def clouds(value: "Clouds") -> str:
    """Draw control, observed and predicted cells on two principal components, in panels that share their axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.8, 3.4), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, name, colour, marker in zip(
            panels, ("observed", "predicted"), (_BLACK, _BLUE), ("x", "^"), strict=True
        ):
            axes.scatter(
                *value.points["control"].T, s=9, color=_GREY, alpha=0.6, linewidths=0, label="control", rasterized=True
            )
            size, width = (14, 0.8) if marker == "x" else (12, 0)
            axes.scatter(
                *value.points[name].T,
                s=size,
                color=colour,
                marker=marker,
                alpha=0.75,
                linewidths=width,
                label=name,
                rasterized=True,
            )
            axes.set_title(f"control and {name} cells")
            axes.set_xlabel(f"component 1 ({100 * value.explained[0]:.0f} % of variance)")
            axes.legend(loc="best", handletextpad=0.2)
        panels[0].set_ylabel(f"component 2 ({100 * value.explained[1]:.0f} %)")
        return _address(figure)


def _picture(draw: "Callable[[Axes], None]", width: float, height: float) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        return _address(figure)


def _address(figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _diagonal(axes: "Axes", low: float, high: float) -> None:
    """Give both axes one range, and draw the line on which a perfect prediction lies."""
    margin = 0.05 * (high - low) or 0.05
    limits = (low - margin, high + margin)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.plot(limits, limits, color=_GREY, linewidth=0.8, linestyle="--", zorder=1)
    axes.locator_params(nbins=4)


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
