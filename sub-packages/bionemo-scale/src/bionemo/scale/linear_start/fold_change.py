"""Change between log1p means and the scale on which the linear start adds shifts.

Where a context has more of a gene, a perturbation moves more of it: a shift is a fold change well above the pseudocount
and additive below.
"""

import numpy as np
import torch

PSEUDOCOUNT = 0.2
"""Added to normalised counts before their logarithm."""


def to_fold(mean: torch.Tensor, pseudocount: float = PSEUDOCOUNT) -> torch.Tensor:
    """Return ``log(expm1(mean) + pseudocount)`` of log1p means; log1p itself where the pseudocount is 1."""
    return torch.log(torch.expm1(mean) + pseudocount)


def from_fold(value: torch.Tensor, pseudocount: float = PSEUDOCOUNT) -> torch.Tensor:
    """Invert :func:`to_fold`; return 0 for what lies below its range."""
    return torch.log1p((torch.exp(value) - pseudocount).clamp(min=0))


def slope(mean: np.ndarray, pseudocount: float = PSEUDOCOUNT) -> np.ndarray:
    """Return the derivative of :func:`to_fold`."""
    return np.exp(mean) / (np.expm1(mean) + pseudocount)
