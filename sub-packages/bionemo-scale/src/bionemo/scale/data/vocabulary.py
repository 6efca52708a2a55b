"""`Vocabulary` holds the names that a model was built for, and the scale of its expression."""

import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from bionemo.screens.labels import Treatment, parse_label


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A `Vocabulary` holds names in the order of the model's tables.

    A context (or batch) is listed only if a training set has shown its perturbed cells. One that is not listed has no
    token: the model then knows it by its control cells alone. A perturbation that is not listed is refused.
    """

    genes: tuple[str, ...]
    contexts: tuple[str, ...]
    perturbations: tuple[str, ...]
    """Tokens that training has shown, alone or in combinations. The control label is the first: a control set maps to
    itself."""
    batches: tuple[str, ...]
    control: str
    kind: str
    """``counts`` (normalised here, to ``target_sum``, then log1p) or ``log1p`` (used as they are)."""
    target_sum: float
    separator: str = "+"
    """What joins the parts of a combination's label; empty where there are none."""
    embedded: tuple[str, ...] = ()
    """Further tokens that have an embedding and were not seen in training."""
    embedding_size: int = 0
    """Width of the supplied embeddings; 0 without."""
    dose_unit: str = ""
    log_dose: tuple[float, float] | None = None
    """Mean and standard deviation of log10(dose) over training labels; None without doses."""
    start_labels: tuple[str, ...] = ()
    """Training labels whose effect the linear start keeps; empty without one."""

    @property
    def start_rows(self) -> tuple[str, ...]:
        """Name the rows of a linear start: training labels, then tokens that only have an embedding."""
        return self.start_labels + self.embedded

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return all perturbation tokens, by row."""
        return self.perturbations + self.embedded

    def treatments(self, label: str) -> tuple[Treatment, ...]:
        """Take a label apart into what it applies; one that is itself a token is not taken apart."""
        return (Treatment(label),) if label in self._rows else parse_label(label, self.separator, self.control)

    def unknown(self, label: str) -> list[str]:
        """Return the names in a label that are no token."""
        return [treatment.name for treatment in self.treatments(label) if treatment.name not in self._rows]

    def token_rows(self, label: str) -> list[tuple[int, float]]:
        """Return the token and the standardised log10 dose (NaN without one) of each perturbation of a known label."""
        mean, scale = self.log_dose or (0.0, 1.0)
        return [
            (self._rows[t.name], math.nan if t.dose is None else (math.log10(t.dose) - mean) / scale)
            for t in self.treatments(label)
        ]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.tokens)}

    @cached_property
    def start_row_of(self) -> dict[str, int]:
        """Row of each label, or token with an embedding alone, in the tables of a linear start."""
        return {name: row for row, name in enumerate(self.start_rows)}

    @cached_property
    def start_rows_alone(self) -> dict[str, dict[int, float | None]]:
        """Rows of the labels that have one perturbation alone, by its name, and the dose of each."""
        alone: dict[str, dict[int, float | None]] = {}
        for label, row in self.start_row_of.items():
            treatments = self.treatments(label)
            if len(treatments) == 1:
                alone.setdefault(treatments[0].name, {})[row] = treatments[0].dose
        return alone

    def to_dict(self) -> dict:
        """Return the fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Vocabulary":
        """Build from :meth:`to_dict`."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in ((field.name, values[field.name]) for field in fields(cls))
        }
        return cls(**known)
