"""Draw populations beyond their means: genes that are zero, genes that vary, and the sizes of cells."""

from collections.abc import Sequence

import numpy as np

from bionemo.perteval.report.pictures.style import BLACK, BLUE, GREY, diagonal, picture, short

_WIDE = 10.0
"""Largest over median size from which on sizes are drawn on a logarithmic axis."""


def genewise(predicted: np.ndarray, observed: np.ndarray, title: str, highest: float | None = None) -> str:
    """Draw a number of every gene [G] in the predicted against the observed populations, up to the `highest`."""

    def draw(figure) -> None:
        axes = figure.subplots()
        top = max(float(predicted.max()), float(observed.max()), 1e-6) if highest is None else highest
        diagonal(axes, 0.0, top)
        axes.scatter(observed, predicted, s=7, color=BLUE, alpha=0.6, linewidths=0, rasterized=True)
        axes.set_title(title)
        axes.set_xlabel("observed")
        axes.set_ylabel("predicted")

    return picture(draw, 3.0, 3.1, (0.55, 0.1, 0.4, 0.25))


def sizes(rows: Sequence[tuple[str, tuple[np.ndarray, np.ndarray], bool]]) -> str:
    """Draw quantiles of the normalised counts and of the number of expressed genes of the cells of each arm.

    A row has a name, the two times five quantiles, and whether it is one to look at.
    """

    def draw(figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, which, label in zip(
            panels, (0, 1), ("normalised counts of a cell", "expressed genes of a cell"), strict=True
        ):
            for place, row in enumerate(rows):
                low, first, middle, third, high = row[1][which]
                ink = BLACK if row[2] else GREY
                axes.plot([low, high], [place, place], color=ink, linewidth=0.8)
                axes.barh(place, third - first, left=first, height=0.5, color="white", edgecolor=ink, linewidth=0.9)
                axes.plot([middle, middle], [place - 0.25, place + 0.25], color=ink, linewidth=1.8)
            tops, middles = (np.array([row[1][which][place] for row in rows]) for place in (4, 2))
            if tops.max() > _WIDE * np.median(middles) > 0:
                # One arm with monstrous cells would press all others into a line.
                axes.set_xscale("symlog", linthresh=float(np.median(middles)) / _WIDE)
                label += " (logarithmic)"
            else:
                axes.locator_params(axis="x", nbins=5)
            axes.set_xlabel(label)
            axes.set_xlim(left=0)
        panels[0].set_yticks(range(len(rows)), [short(row[0], 44) for row in rows])
        panels[0].invert_yaxis()

    return picture(draw, 7.2, 0.6 + 0.22 * len(rows))
