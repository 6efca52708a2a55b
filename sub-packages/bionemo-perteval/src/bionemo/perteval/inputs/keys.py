"""Say where the files keep labels and expression."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bionemo.screens.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Keys:
    """`Keys` name the columns, the control label and the scale of the files."""

    perturbation_key: str
    """Column of `obs`."""
    context_key: str
    """Column of `obs`, or several joined by ``+``."""
    control: str
    """Label of control cells."""
    target_sum: float | None
    """Counts per cell before log1p, needed where the observed file holds counts."""
    layer: str | None
    """Layer of the observed file; None for `X`."""
    within: str | None = None
    """Column of the subpopulations that are scored apart in each context; None scores contexts as a whole."""

    @property
    def scored_key(self) -> str:
        """Return the column, or columns joined by ``+``, of what is scored apart: contexts, or their subpopulations."""
        return self.context_key if self.within is None else f"{self.context_key}+{self.within}"

    @classmethod
    def resolve(cls, given: Mapping[str, Any], stated: Mapping[str, Any]) -> "Keys":
        """Take what was given, else what the prediction says of itself.

        The layer is of the observed file, so the prediction has no say in it, nor in subpopulations.

        Parameters
        ----------
        given
            Arguments of `evaluate` by name; None where not given.
        stated
            ``predicted.uns["prediction"]``, empty where there is none.

        Raises
        ------
        InputError
            Where neither names a column or the control label.
        """
        values = {name: stated.get(name) if value is None else value for name, value in given.items()}
        labels = {name: values[name] for name in ("perturbation_key", "context_key", "control")}
        for name, label in labels.items():
            if label in (None, ""):
                flag = "--" + name.replace("_", "-")
                raise InputError(
                    f"{name} is not known: the prediction has no uns['prediction']['{name}'], so give {flag}."
                )
        target_sum = values["target_sum"]
        return cls(
            **{name: str(label) for name, label in labels.items()},
            target_sum=None if target_sum in (None, "") else float(target_sum),  # type: ignore[arg-type]
            layer=given["layer"] or None,
            within=given["within"] or None,
        )
