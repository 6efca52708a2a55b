"""Cut a set of S cells into K slices of its run: say where they begin, and which store rows they are."""

import numpy as np


def slices(set_size: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where in a set its slices begin, and how long they are in a full one, int64 [K] each.

    A set of fewer cells is cut at the same places, so its last slices are shorter or empty.
    """
    ends = set_size * np.arange(blocks + 1) // blocks
    return ends[:-1], np.diff(ends)


def spread(starts: np.ndarray, set_size: int) -> np.ndarray:
    """Return the place of each cell from those of the slices: [..., K] to [..., S]."""
    blocks = starts.shape[-1]
    offset, length = slices(set_size, blocks)
    return np.repeat(starts - offset, length, axis=-1) + np.arange(set_size)


def set_rows(runs: np.ndarray, sets: np.ndarray, set_size: int) -> np.ndarray:
    """Return the store rows of sets, structured [..., B], as int64 [..., B, S]; -1 beyond a set's length.

    `runs` is the store's run table, and S the cells of a set.
    """
    start, length = (runs[name][sets["run"]][..., None] for name in ("start", "length"))
    # Run -1 of a padding set picks any run: its length masks it.
    rows = start + spread(sets["starts"], set_size) % length
    return np.where(np.arange(set_size) < sets["length"][..., None], rows, -1)
