"""Memory for batches that is used again: fresh memory costs a page fault for every 4 kB, as long as filling it does."""

import math
import weakref

import numpy as np
import torch


class Memory:
    """Hands out tensors, and takes their memory back when nothing refers to them any more.

    A batch, a view of one of its tensors, or a NumPy array of it keeps its memory. Where CUDA is there, memory is
    page-locked and torch's allocator takes it back, which waits for copies to a device that are under way.
    """

    def __init__(self):
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor of any content."""
        if torch.cuda.is_available():
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        block = self._large_enough(size)
        # Torch keeps the array that it was given as long as a tensor needs it; `block` outlives that array.
        lent = block[:size]
        weakref.finalize(lent, self._free.append, block).atexit = False
        return torch.from_numpy(lent).view(dtype).view(shape)

    def _large_enough(self, size: int) -> np.ndarray:
        for place in reversed(range(len(self._free))):  # the last one given back may still be in the cache
            block = self._free[place]
            # Not one far too large, or small things would keep large ones waiting.
            if size <= len(block) <= 2 * size + 4096:
                return self._free.pop(place)
        if self._free:  # of another size; what no batch asks for must not add up
            self._free.pop(0)
        # An eighth more than asked for: batches of stored values differ a little in size.
        return np.empty(size + size // 8, dtype=np.uint8)
