"""Hash numbers, alike on every machine: what pseudo-random draws and orders are made of."""

import numpy as np


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values; the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    values = values.astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
