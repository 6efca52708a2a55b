"""Use the memory of dense batches again: fresh memory costs a page fault for every 4 kB, as long as filling it does."""

import math
import weakref

import numpy as np
import torch


class Memory:
    """A `Memory` hands out tensors, and takes their memory back when nothing refers to them any more.

    A batch, a view of one of its tensors, or a NumPy array of it keeps its memory. Where CUDA is there, memory is
    page-locked and torch's allocator takes it back, which waits for copies to a device that are under way.
    """

    def __init__(self):
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor of any content; those of one batch, and of all batches of a loader, have one size."""
        size = math.prod(shape) * dtype.itemsize
        if torch.cuda.is_available() or size == 0:
            return fresh(shape, dtype)
        if self._free and len(self._free[-1]) != size:
            self._free.clear()
        block = self._free.pop() if self._free else np.empty(size, dtype=np.uint8)
        lent = block[:]
        weakref.finalize(lent, self._free.append, block).atexit = False
        # An array made of another would keep only what that one is made of. Of a memoryview it keeps that, and so
        # `lent`; and torch keeps the array.
        return torch.from_numpy(np.frombuffer(lent.data, np.uint8)).view(dtype).view(shape)


def fresh(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return a new tensor of any content, in page-locked memory where CUDA is there."""
    return torch.empty(shape, dtype=dtype, pin_memory=torch.cuda.is_available() and math.prod(shape) > 0)
