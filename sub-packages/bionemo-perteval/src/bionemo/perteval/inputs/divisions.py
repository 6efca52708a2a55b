"""Decide with which control cells every prediction is scored, and check what it says it was made from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from bionemo.perteval.inputs.reading import CellFile
from bionemo.perteval.inputs.screen import Screen
from bionemo.perteval.inputs.stored import names_of
from bionemo.screens.controls import ControlRole, ControlRoles, Controls, check_roles
from bionemo.screens.errors import InputError
from bionemo.screens.obs import text_of

ORIGIN = "control_cell"
"""Column of `obs` in which a prediction names the control cell that each of its cells was made from."""

Asked = Literal["both", "independent", "shared"]

SHARED = ControlRoles(Controls.SHARED)


@dataclass(frozen=True, kw_only=True)
class Divisions:
    """`Divisions` say under which divisions of the control cells the arms are scored."""

    modes: tuple[Controls, ...]
    """Kinds of control cells in the order of the tables; the first decides pictures and checks."""
    own: Mapping[str, tuple[ControlRoles | None, ...]]
    """Prediction -> the roles that each of its training seeds was made with; None where a file was not made from input
    cells alone, or does not say so."""
    rotation: int = 0
    """Rotation where no prediction has one."""

    @cached_property
    def independent(self) -> tuple[ControlRoles, ...]:
        """Every independent division that some prediction was made with; else the one of `rotation`."""
        stated = {roles.rotation for seeds in self.own.values() for roles in seeds if roles is not None}
        return tuple(ControlRoles(rotation=rotation) for rotation in sorted(stated or {self.rotation}))

    def of(self, mode: Controls) -> tuple[ControlRoles, ...]:
        """Return the divisions of one kind."""
        return (SHARED,) if mode is Controls.SHARED else self.independent

    def of_seed(self, arm: str, seed: int) -> tuple[ControlRoles, ...]:
        """Return the divisions under which a training seed is scored: its own, or all where it has none."""
        own = self.own[arm][seed]
        return tuple(
            roles
            for mode in self.modes
            for roles in (self.of(mode) if own is None or mode is Controls.SHARED else (own,))
        )

    @property
    def all(self) -> tuple[ControlRoles, ...]:
        """Every division, in the order of the tables."""
        return tuple(roles for mode in self.modes for roles in self.of(mode))


def divide(
    screen: Screen,
    predictions: Sequence[CellFile],
    observed: CellFile,
    *,
    controls: Asked = "both",
    rotation: int | None = None,
    strict: bool = False,
) -> tuple[Divisions, list[str]]:
    """Return the divisions that predictions are scored under, and what the reader has to know of them first.

    Parameters
    ----------
    screen
        Result of `align`.
    predictions, observed
        The files. ``uns["prediction"]["controls"]`` of a prediction holds the roles that it was made with, and its
        column ``control_cell`` the names of the cells that it was made from.
    controls
        Which kinds of control cells to score with.
    rotation
        Rotation of predictions that say none; None for 0.
    strict
        Whether to refuse predictions that were not made from input cells alone.

    Raises
    ------
    InputError
        A prediction contradicts itself or the rotation, `strict` refuses one, or a context has no control cell for a
        role.
    """
    if controls not in ("both", "independent", "shared"):
        raise InputError(f"The controls are {controls!r}, but they can be both, independent or shared.")
    if rotation is not None and not (type(rotation) is int and 0 <= rotation < 3):
        raise InputError(f"The control rotation is {rotation!r}, but it can be 0, 1 or 2.")
    own: list[ControlRoles | None] = [None] * len(predictions)
    notices: list[str] = []
    if controls == "shared":
        if rotation is not None:
            raise InputError(
                "Shared control cells have no rotation; leave --control-rotation or --controls shared out."
            )
        modes = (Controls.SHARED,)
    else:
        modes = (Controls.INDEPENDENT,) if controls == "independent" else (Controls.INDEPENDENT, Controls.SHARED)
        rows = np.concatenate([of for (_, label), of in screen.rows.items() if label == screen.control])
        known = set(map(str, names_of(observed.cells, rows)))
        for place, file in enumerate(predictions):
            own[place], doubt = _roles_of(file, rotation, known)
            if doubt and strict:
                raise InputError(
                    f"--strict was given, but {doubt}; predict from input cells alone, or score with --controls shared."
                )
            if doubt:
                doubt = f"{doubt[0].upper()}{doubt[1:]}"
                notices.append(f"{doubt}: its scores with independent controls may err either way.")
    by_arm = {
        arm: tuple(roles for file, roles in zip(predictions, own, strict=True) if file.arm == arm)
        for arm in screen.predictions
    }
    divisions = Divisions(modes=modes, own=by_arm, rotation=rotation or 0)
    if Controls.INDEPENDENT in modes:
        notices = [_fewest(screen, divisions, observed.name), *notices]
    return divisions, notices


def _roles_of(file: CellFile, rotation: int | None, known: Collection[str]) -> tuple[ControlRoles | None, str]:
    """Return the roles that a prediction was made with, None where it shares cells, and what is doubtful about it."""
    said: Any = file.stated.get("controls")
    if said in (None, ""):
        return (
            None,
            f"{file.name} does not say which control cells it was made from, and may have used those of the truth",
        )
    roles = ControlRoles.from_dict(said, f"uns['prediction']['controls'] of {file.name}")
    if roles.controls is Controls.SHARED:
        return None, f"{file.name} was made with shared control cells, which the truth is measured against as well"
    if rotation not in (None, roles.rotation):
        raise InputError(
            f"{file.name} was made with rotation {roles.rotation} of the control cells, not {rotation}; leave "
            "--control-rotation out."
        )
    if ORIGIN not in file.cells.obs.columns:
        return roles, ""
    origins = list(dict.fromkeys(text_of(file.cells.obs[ORIGIN]).tolist()))
    strangers = sum(name not in known for name in origins)
    if strangers:
        return roles, (
            f"{strangers} of the {len(origins)} cells that {file.name} was made from are no observed control "
            "cells by their names, so that nobody can check their role"
        )
    wrong = int((~roles.has(origins, ControlRole.INPUT)).sum())
    if wrong:
        raise InputError(
            f"{file.name} says that it was made from input cells of rotation {roles.rotation}, but {wrong} of the "
            f"{len(origins)} cells in obs['{ORIGIN}'] have another role; predict again, and rename no cells between."
        )
    return roles, ""


def _fewest(screen: Screen, divisions: Divisions, source: str) -> str:
    """Say how the control cells are divided, and which part is the smallest."""
    first = divisions.independent[0]
    cells = {
        context: {role: screen.control_rows(context, first, role).size for role in ControlRole}
        for context in screen.scored
    }
    context, role, least = check_roles(cells, source)
    rotations = ", ".join(str(roles.rotation) for roles in divisions.independent)
    return (
        f"Control cells are divided by their names (rotation {rotations}): what is predicted is measured against the "
        f"input part, what was observed against the truth part. The smallest part has {least} cells: {role} of "
        f"{context}."
    )
