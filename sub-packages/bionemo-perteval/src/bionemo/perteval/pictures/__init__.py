"""The pictures of the report, each a ``data:`` address of an SVG: told apart by shape and hatch, not colour alone."""

from bionemo.perteval.pictures.clouds import clouds
from bionemo.perteval.pictures.distances import distances
from bionemo.perteval.pictures.expression import overlaps, volcano
from bionemo.perteval.pictures.populations import genewise, sizes
from bionemo.perteval.pictures.shifts import shift

__all__ = ["clouds", "distances", "genewise", "overlaps", "shift", "sizes", "volcano"]
