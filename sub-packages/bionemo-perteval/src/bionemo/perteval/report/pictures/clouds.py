"""Draw control, observed and predicted cells beside each other."""

from collections.abc import Sequence

from bionemo.perteval.checks.components import Components
from bionemo.perteval.report.pictures.style import BLACK, BLUE, GREY, picture, short


def clouds(value: Components, predictions: Sequence[str]) -> str:
    """Draw the observed cells and those of each prediction over the control cells, in panels that share their axes."""
    groups = [
        ("observed", value.observed, BLACK, "x"),
        *((name, value.predicted[name], BLUE, "^") for name in predictions),
    ]

    def draw(figure) -> None:
        panels = figure.subplots(1, len(groups), sharex=True, sharey=True)
        for axes, (name, points, colour, marker) in zip(panels, groups, strict=True):
            axes.scatter(*value.control.T, s=9, color=GREY, alpha=0.5, linewidths=0, label="control", rasterized=True)
            size, width = (14, 0.8) if marker == "x" else (12, 0)
            axes.scatter(
                *points.T, s=size, color=colour, marker=marker, alpha=0.75, linewidths=width, label=short(name),
                rasterized=True,
            )  # fmt: skip
            axes.set_title(f"control and {short(name)}")
            axes.set_xlabel(f"component 1 ({100 * value.explained[0]:.0f} % of variance)")
            axes.legend(loc="best", handletextpad=0.2)
        panels[0].set_ylabel(f"component 2 ({100 * value.explained[1]:.0f} %)")

    return picture(draw, 3.3 * len(groups), 3.3, (0.55, 0.1, 0.4, 0.25))
