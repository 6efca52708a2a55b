"""Draw how near each predicted shift is to each observed one: whether a prediction tells perturbations apart."""

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import cdist

from bionemo.perteval.checks.profiles import Response
from bionemo.perteval.report.pictures.style import BLACK, picture, short

_NAMED = 40


def distances(names: Sequence[str], predicted: Sequence[Response], observed: Sequence[Response], title: str) -> str:
    """Draw the L1 distance of every predicted to every observed shift of a context.

    Rows and columns, one a perturbation [P], are ordered so that alike observed shifts stand together.
    """
    shifts = np.stack([response.delta for response in observed])
    order = leaves_list(linkage(shifts, "average", "cityblock"))
    names = [names[int(place)] for place in order]
    matrix = cdist([predicted[place].delta for place in order], shifts[order], "cityblock")
    low, high = matrix.min(axis=1, keepdims=True), matrix.max(axis=1, keepdims=True)
    scaled = np.divide(matrix - low, high - low, out=np.zeros_like(matrix), where=high > low)
    nearest = matrix.argmin(axis=1)
    found = int((nearest == np.arange(len(names))).sum())

    def draw(figure) -> None:
        axes = figure.subplots()
        image = axes.imshow(scaled, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="equal")
        axes.scatter(
            nearest, np.arange(len(names)), s=max(3.0, 400 / len(names)), marker="o", facecolors="white",
            edgecolors=BLACK, linewidths=0.6, label="nearest",
        )  # fmt: skip
        labels = [short(name, 14) for name in names]
        if len(names) <= _NAMED:
            axes.set_xticks(range(len(names)), labels, rotation=90)
            axes.set_yticks(range(len(names)), labels)
        else:
            axes.set(xticks=[], yticks=[])
        axes.set_xlabel("observed")
        axes.set_ylabel("predicted")
        axes.set_title(f"{short(title, 44)}\nown perturbation nearest: {found} of {len(names)}")
        bar = figure.colorbar(image, ax=axes, shrink=0.6, ticks=[0, 1])
        bar.ax.set_yticklabels(["nearest", "farthest"])

    return picture(draw, 4.3, 3.9)
