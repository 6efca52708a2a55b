"""Read what a perturbation label says: which perturbations were applied, and at which dose.

Three spellings are read:

- ``A+B``: a combination; the separator is a setting, and a part that is the control label is left out (``A+control``);
- ``A+0.5uM``: a part that is a number, with or without a unit, is the dose of the part before. It is what
  ``prepare --perturbation-key drug+dose`` makes of two columns;
- ``[('A', 0.05, 'uM'), ('B', 1.0, 'uM')]``: a printed list of (name, dose, unit).

Anything else is one perturbation without a dose.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bionemo.screens.errors import InputError

Condition = tuple[str, str]
"""The labels of a context and of a perturbation."""

_MOLAR = {"M": 1e6, "mM": 1e3, "uM": 1.0, "µM": 1.0, "μM": 1.0, "nM": 1e-3, "pM": 1e-6}
_DOSE = re.compile(r"(\d+\.?\d*(?:e-?\d+)?)\s*([A-Za-zµμ/%]*)")


@dataclass(frozen=True)
class Treatment:
    """A `Treatment` is one perturbation of a condition, with its dose."""

    name: str
    dose: float | None = None
    """Above 0; molar doses in micromolar, others in their own unit."""
    unit: str = ""
    """``uM`` for every molar dose."""


def parse_label(label: str, separator: str, control: str) -> tuple[Treatment, ...]:
    """Read a label in one of the spellings that stand at the head of this module.

    The `separator` joins the parts of a label; it is empty where labels have no parts. There is at least one treatment:
    the label itself where it is the control's.

    Raises
    ------
    InputError
        A dose of 0 or less.
    """
    if label == control:
        return (Treatment(label),)
    treatments = _printed_list(label) or _joined(label, separator)
    perturbing = tuple(treatment for treatment in treatments if treatment.name != control)
    for treatment in perturbing:
        if treatment.dose is not None and treatment.dose <= 0:
            raise InputError(
                f"perturbation {label!r} has the dose {treatment.dose:g}, which has no logarithm: give untreated cells "
                f"the control label {control!r}"
            )
    return perturbing or (Treatment(label),)


def parse_labels(labels: Iterable[str], separator: str, control: str) -> dict[str, tuple[Treatment, ...]]:
    """Read the labels of a screen together.

    A label of several names is a combination only if one of these names occurs in another label as well; else it is
    kept whole, as one perturbation whose name happens to contain the separator.

    Raises
    ------
    InputError
        A dose of 0 or less.
    """
    parsed = {label: parse_label(label, separator, control) for label in labels}
    uses = Counter(name for treatments in parsed.values() for name in {treatment.name for treatment in treatments})
    return {
        label: treatments
        if len(treatments) == 1 or any(uses[treatment.name] > 1 for treatment in treatments)
        else (Treatment(label),)
        for label, treatments in parsed.items()
    }


def _printed_list(label: str) -> tuple[Treatment, ...]:
    if not label.startswith("[("):
        return ()
    try:
        listed = [(str(name), float(dose), str(unit)) for name, dose, unit in ast.literal_eval(label)]
    except (ValueError, SyntaxError, TypeError):
        return ()
    return tuple(Treatment(name, *_dose(dose, unit)) for name, dose, unit in listed)


def _joined(label: str, separator: str) -> tuple[Treatment, ...]:
    parts = [part.strip() for part in label.split(separator)] if separator else [label]
    if not all(parts):
        return (Treatment(label),)
    treatments: list[Treatment] = []
    for part in parts:
        dose = _DOSE.fullmatch(part)
        if dose and treatments and treatments[-1].dose is None:
            treatments[-1] = Treatment(treatments[-1].name, *_dose(float(dose[1]), dose[2]))
        else:
            treatments.append(Treatment(part))
    return tuple(treatments)


def _dose(dose: float, unit: str) -> tuple[float, str]:
    return (dose * _MOLAR[unit], "uM") if unit in _MOLAR else (dose, unit)
