"""Hold what all pictures share: ink, fonts, and the way into the page."""

import base64
import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bionemo.screens.printable import printable

BLACK, BLUE, GREY, PALE = "#1a1a1a", "#1f5fa8", "#8f8f8f", "#d9d9d9"

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
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "svg.hashsalt": "perteval",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
}


def picture(
    draw: Callable[[Figure], None],
    width: float,
    height: float,
    margins: tuple[float, float, float, float] | None = None,
) -> str:
    """Return the address of what `draw` puts on a figure of `width` times `height` inches.

    The margins are left, right, bottom and top in inches; None measures the labels, which takes several times longer.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout=None if margins else "constrained")
        draw(figure)
        if margins:
            left, right, bottom, top = margins
            figure.subplots_adjust(
                left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height, wspace=0.08
            )
        buffer = io.BytesIO()
        # Dots are rasterised, so this is also what bounds the size of the page.
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def diagonal(axes: Axes, low: float, high: float) -> None:
    """Give both axes one range, and draw the line on which a perfect prediction lies."""
    margin = 0.05 * (high - low) or 0.05
    limits = (low - margin, high + margin)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.plot(limits, limits, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    axes.locator_params(nbins=4)


def short(name: str, most: int = 24) -> str:
    """Return a label that is not longer than `most` and that matplotlib draws as it is."""
    name = printable(name)
    # Matplotlib would read a dollar sign as the begin of a formula.
    cut = name if len(name) <= most else name[: most - 1] + "…"
    return cut.replace("$", r"\$")
