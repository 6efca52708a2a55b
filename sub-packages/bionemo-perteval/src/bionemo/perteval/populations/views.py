"""See one context as those do who predict it: with the control cells that they may know."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bionemo.perteval.inputs.screen import Screen, mean_cell
from bionemo.perteval.populations.estimates import Estimates
from bionemo.screens.controls import ControlRole, ControlRoles, Controls


@dataclass(frozen=True, kw_only=True)
class View:
    """A `View` is a context under one division of its control cells."""

    roles: ControlRoles
    """The division."""
    context: str
    """The context."""
    screen: Screen
    """The cells to one who has only the input cells of the context."""
    estimates: Estimates
    """What the training conditions say to the same one."""
    known: np.ndarray
    """Rows of the control cells that predicted shifts are measured against."""
    truth: np.ndarray
    """Rows of the control cells that observed shifts are measured against."""

    @classmethod
    def of(cls, screen: Screen, estimates: Estimates, context: str, roles: ControlRoles) -> "View":
        """Divide the control cells of a context of a screen; the control cells of other contexts are all known."""
        if roles.controls is Controls.SHARED:
            rows = screen.rows[context, screen.control]
            return cls(roles=roles, context=context, screen=screen, estimates=estimates, known=rows, truth=rows)
        rows = screen.control_rows(context, roles, ControlRole.INPUT)
        seen = screen.with_controls(context, rows)
        return cls(
            roles=roles,
            context=context,
            screen=seen,
            estimates=estimates.with_controls(context, seen.mean(context, screen.control)),
            known=rows,
            truth=screen.control_rows(context, roles, ControlRole.TRUTH),
        )

    @cached_property
    def true_control(self) -> np.ndarray:
        """Mean of the control cells that the observed shifts are measured against, log1p [G]."""
        return mean_cell(self.screen.observed[self.truth])

    def true_delta(self, perturbation: str) -> np.ndarray:
        """Return the observed shift of a perturbation, log1p [G]."""
        return self.screen.mean(self.context, perturbation) - self.true_control
