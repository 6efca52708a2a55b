"""Draw predicted against observed shifts."""

import numpy as np

from bionemo.perteval.checks.profiles import Response
from bionemo.perteval.report.pictures.style import BLUE, diagonal, picture, short


def shift(predicted: Response, observed: Response, title: str, correlation: float) -> str:
    """Draw the predicted against the observed delta of every gene of one condition."""

    def draw(figure) -> None:
        axes = figure.subplots()
        both = np.concatenate([predicted.delta, observed.delta, [0.0]])
        diagonal(axes, float(both.min()), float(both.max()))
        axes.scatter(observed.delta, predicted.delta, s=5, color=BLUE, alpha=0.6, linewidths=0, rasterized=True)
        said = "–" if np.isnan(correlation) else f"{correlation:.2f}".replace("-", "−")
        axes.set_title(f"{short(title, 30)}\nPDCorr {said}")
        axes.set_xlabel("observed shift")
        axes.set_ylabel("predicted shift")

    return picture(draw, 2.2, 2.35, (0.62, 0.08, 0.4, 0.4))
