"""Draw which genes the tests call differentially expressed on either side."""

from collections.abc import Sequence

import numpy as np

from bionemo.perteval.checks.profiles import Response
from bionemo.perteval.report.pictures.style import BLACK, BLUE, GREY, PALE, picture, short
from bionemo.perteval.significance.mann_whitney import FDR

_HIGHEST = 30.0
_WIDEST = 5.0


def volcano(predicted: Response, observed: Response, title: str) -> str:
    """Draw fold change and false discovery rate of every gene, observed on the left and predicted on the right."""
    both = predicted.significant & observed.significant

    def draw(figure) -> None:
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, side, other, name in (
            (panels[0], observed, predicted, "observed"),
            (panels[1], predicted, observed, "predicted"),
        ):
            alone = side.significant & ~other.significant
            left = "missed" if name == "observed" else "called, but not observed"
            for mask, style, label in (
                (~side.significant, {"s": 4, "color": PALE, "marker": "o", "linewidths": 0}, None),
                (both, {"s": 9, "color": BLACK, "marker": "o", "linewidths": 0}, "on both sides"),
                (alone, {"s": 15, "color": BLUE, "marker": "x", "linewidths": 0.8}, left),
            ):
                label = None if label is None else f"{label}: {int(mask.sum())}"
                x, y = _coordinates(side, mask)
                axes.scatter(x, y, label=label, alpha=0.75, rasterized=True, **style)
            axes.axhline(-np.log10(FDR), color=GREY, linewidth=0.7, linestyle="--")
            axes.set_title(f"{short(title, 40)}, {name}")
            axes.set_xlabel("log2 fold change")
            axes.legend(loc="upper left", handletextpad=0.1, borderaxespad=0.1)
        panels[0].set_ylabel("−log10 FDR")
        top = panels[0].get_ylim()[1]
        panels[0].set_ylim(-0.03 * top, 1.35 * top)

    return picture(draw, 6.4, 2.9, (0.45, 0.1, 0.4, 0.25))


def overlaps(rows: Sequence[tuple[str, Response, Response]]) -> str:
    """Draw how many genes are called on both sides or on one, from name, predicted and observed response."""

    def draw(figure) -> None:
        axes = figure.subplots()
        places = np.arange(len(rows))
        both = np.array([int((p.significant & o.significant).sum()) for _, p, o in rows])
        missed = np.array([int((~p.significant & o.significant).sum()) for _, p, o in rows])
        extra = np.array([int((p.significant & ~o.significant).sum()) for _, p, o in rows])
        style = {"edgecolor": BLACK, "linewidth": 0.5, "height": 0.75}
        axes.barh(places, -missed, color="white", hatch="///", label="observed, but missed", **style)
        axes.barh(places, both, color=BLACK, label="on both sides", **style)
        axes.barh(places, extra, left=both, color=PALE, hatch="\\\\", label="called, but not observed", **style)
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_yticks(places, [short(name, 34) for name, _, _ in rows])
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        axes.set_xlabel("DE genes")
        figure.legend(loc="outside upper left", ncols=3)

    return picture(draw, 6.8, 0.7 + 0.19 * len(rows))


def _coordinates(side: Response, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return fold changes and rates of some genes, cut at the edges of the picture."""
    rate = np.maximum(side.rate[mask], 10.0**-_HIGHEST)
    return np.clip(side.log_fold_change[mask], -_WIDEST, _WIDEST), -np.log10(rate)
