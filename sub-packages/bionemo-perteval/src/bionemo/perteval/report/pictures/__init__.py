"""Draw the pictures of the report, each a ``data:`` address of an SVG that reads without colour."""

from bionemo.perteval.report.pictures.clouds import clouds
from bionemo.perteval.report.pictures.distances import distances
from bionemo.perteval.report.pictures.expression import overlaps, volcano
from bionemo.perteval.report.pictures.overview import Place, called, places, winners
from bionemo.perteval.report.pictures.populations import genewise, sizes
from bionemo.perteval.report.pictures.shifts import shift

__all__ = [
    "Place", "called", "clouds", "distances", "genewise", "overlaps", "places", "shift", "sizes", "volcano", "winners",
]  # fmt: skip
