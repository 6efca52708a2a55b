"""The names a model was built for: genes, contexts, perturbations, batches, and the scale of its expression."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Names in the order of the model's tables.

    A context (or batch) is listed only if a training set has shown its perturbed cells. One that is not listed has no
    token: the model then knows it by its control cells alone. A perturbation that is not listed is refused.
    """

    genes: tuple[str, ...]
    contexts: tuple[str, ...]
    perturbations: tuple[str, ...]
    """The control label is one of them: a control set maps to itself."""
    batches: tuple[str, ...]
    control: str
    kind: str
    """``counts`` (normalised here, to ``target_sum``, then log1p) or ``log1p`` (used as they are)."""
    target_sum: float

    def to_dict(self) -> dict:
        """JSON-ready fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Vocabulary":
        """Build from :meth:`to_dict`."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in ((field.name, values[field.name]) for field in fields(cls))
        }
        return cls(**known)
