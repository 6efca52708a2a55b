"""Divide control cells into disjoint parts, so that no two sides of a comparison share their sampling noise.

A shift is the mean of perturbed cells less that of control cells. Where a prediction, what it is fitted to and what it
is scored against use the same control cells, the noise of these cells stands in all three, and a correlation of shifts
pays for it. Each control cell therefore has one of three parts, by a checksum of its name, and each part has one role::

    input    what a prediction is made from: source cells, and the shifts that it may know
    target   what training shifts and validation scores are measured against
    truth    what the shifts of test conditions are measured against

A cell keeps its part whatever file, order or subset it is in.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from bionemo.screens.errors import InputError, choices

PARTS = 3


class ControlRole(StrEnum):
    """A `ControlRole` is what a control cell is used for."""

    INPUT = "input"
    TARGET = "target"
    TRUTH = "truth"


class Controls(StrEnum):
    """`Controls` says whether the roles have disjoint control cells, or share all of them as published protocols do."""

    INDEPENDENT = "independent"
    SHARED = "shared"


def control_parts(names: Iterable[str]) -> np.ndarray:
    """Return the part of each cell, 0, 1 or 2: the CRC-32 of its name in UTF-8, modulo 3; uint8 [n]."""
    return np.fromiter((zlib.crc32(name.encode()) % PARTS for name in names), dtype=np.uint8)


@dataclass(frozen=True)
class ControlRoles:
    """A `ControlRoles` says which parts of the control cells have which role."""

    controls: Controls = Controls.INDEPENDENT
    """Whether roles are disjoint."""
    rotation: int = 0
    """0, 1 or 2: by how many parts the roles are moved on. The mean over the three rotations uses every cell in every
    role; the seeds of an experiment take turns."""

    def parts(self, role: ControlRole) -> tuple[int, ...]:
        """Return the parts whose cells have a role."""
        if self.controls is Controls.SHARED:
            return tuple(range(PARTS))
        return ((list(ControlRole).index(role) + self.rotation) % PARTS,)

    def has(self, names: Iterable[str], role: ControlRole) -> np.ndarray:
        """Tell which control cells have a role, by their names; bool [n]."""
        return np.isin(control_parts(names), self.parts(role))

    def to_dict(self) -> dict[str, Any]:
        """Return the roles as plain values, fit for JSON; `from_dict` reads them."""
        return {"controls": str(self.controls), "rotation": self.rotation}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], source: str) -> "ControlRoles":
        """Read what `to_dict` wrote; `source` is what messages call it.

        Raises
        ------
        InputError
            A value is missing or unknown.
        """
        try:
            controls, rotation = str(table["controls"]), table["rotation"]
        except (KeyError, TypeError) as error:
            raise InputError(f"{source} does not say which control cells have which role") from error
        if controls not in list(Controls):
            raise InputError(f"The controls '{controls}' of {source} are not known: {choices(controls, Controls)}")
        # A file gives back a number of NumPy's.
        if isinstance(rotation, bool) or not isinstance(rotation, int | np.integer) or not 0 <= rotation < PARTS:
            raise InputError(f"The rotation of control cells in {source} must be 0, 1 or 2, not {rotation!r}")
        return cls(Controls(controls), int(rotation))


def check_roles(cells: Mapping[str, Mapping[ControlRole, int]], source: str) -> tuple[str, ControlRole, int]:
    """Return the context and role that have the fewest control cells, and their number.

    `cells` is context -> role -> number of its control cells, and `source` what messages call the file.

    Raises
    ------
    InputError
        A context has no control cell for a role.
    """
    least, context, role = min(
        (count, context, role) for context, roles in cells.items() for role, count in roles.items()
    )
    if least == 0:
        raise InputError(
            f"The {sum(cells[context].values())} control cells of context '{context}' in {source} are too few to "
            f"divide: none has the role '{role}'. Add control cells, leave the context out, or let the roles share "
            "them: training.controls=shared, evaluate --controls shared"
        )
    return context, role, least
